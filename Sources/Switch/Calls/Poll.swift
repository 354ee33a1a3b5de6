import CLibc
import Libc

// poll(2), ppoll(2), select(2), pselect(2).

@c @implementation
public func switch_poll(_ entries: UnsafeMutablePointer<pollfd>?, _ count: nfds_t, _ timeout: CInt) -> CInt {
    guard count > 0, count < 1 << 20, let entries,
        KnownMemory.isValid(entries, Int(count) * MemoryLayout<pollfd>.stride, forWriting: true),
        PollSet.concerns(entries, Int(count))
    else { return real_poll(entries, count, timeout) }
    return PollSet.wait(entries, Int(count), timeout < 0 ? -1 : Int(timeout) * 1_000_000, nil)
}

@c @implementation
public func switch_ppoll(
    _ entries: UnsafeMutablePointer<pollfd>?, _ count: nfds_t, _ timeout: UnsafePointer<timespec>?,
    _ mask: UnsafePointer<sigset_t>?
) -> CInt {
    guard count > 0, count < 1 << 20, let entries,
        KnownMemory.isValid(entries, Int(count) * MemoryLayout<pollfd>.stride, forWriting: true),
        PollSet.concerns(entries, Int(count)), let nanoseconds = duration(timeout)
    else { return real_ppoll(entries, count, timeout, mask) }
    return PollSet.wait(entries, Int(count), nanoseconds, mask)
}

/// Nanoseconds of a time limit, -1 for none; nil when it is invalid, which the real call reports.
func duration(_ limit: UnsafePointer<timespec>?) -> Int? {
    guard let limit else { return -1 }
    guard KnownMemory.isValid(UnsafeMutableRawPointer(mutating: limit), MemoryLayout<timespec>.size, forWriting: false)
    else { return nil }
    guard limit.pointee.tv_sec >= 0, limit.pointee.tv_nsec >= 0, limit.pointee.tv_nsec < 1_000_000_000 else {
        return nil
    }
    return limit.pointee.tv_sec >= 1 << 32 ? -1 : limit.pointee.tv_sec &* 1_000_000_000 &+ limit.pointee.tv_nsec
}
