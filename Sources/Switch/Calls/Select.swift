import CLibc
import Libc

/// The three sets of a select(2) call.
private struct SelectSets {
    let count: CInt
    let reads: UnsafeMutablePointer<fd_set>?
    let writes: UnsafeMutablePointer<fd_set>?
    let excepts: UnsafeMutablePointer<fd_set>?

    func events(_ fd: CInt) -> UInt32 {
        (libc_fd_isset(fd, reads) ? Readiness.input | UInt32(EPOLLRDBAND.rawValue) : 0)
            | (libc_fd_isset(fd, writes) ? Readiness.output | UInt32(EPOLLWRBAND.rawValue) : 0)
            | (libc_fd_isset(fd, excepts) ? Readiness.priority : 0)
    }

    /// Whether the three sets may be read and written; if not, the real call says EFAULT.
    private var areValid: Bool {
        let length = (Int(count) &+ 63) / 64 * 8
        func isValid(_ set: UnsafeMutablePointer<fd_set>?) -> Bool {
            set.map { KnownMemory.isValid($0, length, forWriting: true) } ?? true
        }
        return isValid(reads) && isValid(writes) && isValid(excepts)
    }

    var concernsSessions: Bool {
        guard DescriptorTable.slots != nil, areValid else { return false }
        for fd in 0..<count where events(fd) != 0 {
            let slot = DescriptorTable.slot(fd)
            if slot.session != nil || slot.isEpollSet { return true }
        }
        return false
    }

    /// As poll entries, waited for, and back. `timeout` in nanoseconds, negative for none.
    func wait(_ timeout: Int, _ mask: UnsafePointer<sigset_t>?) -> CInt {
        withUnsafeTemporaryAllocation(of: pollfd.self, capacity: Int(max(1, count))) { entries in
            var used = 0
            for fd in 0..<count {
                let wanted = events(fd)
                if wanted == 0 { continue }
                entries[used] = pollfd(
                    fd: fd, events: CShort(bitPattern: UInt16(truncatingIfNeeded: wanted)), revents: 0)
                used &+= 1
            }
            let result = PollSet.wait(entries.baseAddress.unsafelyUnwrapped, used, timeout, mask)
            if result < 0 { return result }
            for i in 0..<used where entries[i].revents & CShort(POLLNVAL) != 0 { return fail(EBADF) }
            return store(UnsafeBufferPointer(rebasing: entries[0..<used]))
        }
    }

    /// select(2): which poll events make a descriptor readable, writable, exceptional.
    private func store(_ entries: UnsafeBufferPointer<pollfd>) -> CInt {
        let readable = Readiness.input | UInt32(EPOLLRDBAND.rawValue) | Readiness.always
        let writable = Readiness.output | UInt32(EPOLLWRBAND.rawValue) | UInt32(EPOLLERR.rawValue)
        var ready: CInt = 0
        for (set, bits) in [(reads, readable), (writes, writable), (excepts, Readiness.priority)] as Triple {
            guard let set else { continue }
            var result = fd_set()
            for entry in entries
            where libc_fd_isset(entry.fd, set) && UInt32(UInt16(bitPattern: entry.revents)) & bits != 0 {
                libc_fd_set(entry.fd, &result)
                ready &+= 1
            }
            // Only the words that cover `count` belong to the caller.
            memcpy(set, &result, (Int(count) &+ 63) / 64 * 8)
        }
        return ready
    }
}

/// Three sets with their bits, without an array allocation.
private struct Triple: Sequence, IteratorProtocol, ExpressibleByArrayLiteral {
    typealias Element = (UnsafeMutablePointer<fd_set>?, UInt32)
    private var a: Element, b: Element, c: Element
    private var position = 0
    init(arrayLiteral elements: Element...) { (a, b, c) = (elements[0], elements[1], elements[2]) }
    mutating func next() -> Element? {
        position &+= 1
        return position == 1 ? a : position == 2 ? b : position == 3 ? c : nil
    }
}

@c @implementation
public func switch_select(
    _ count: CInt, _ reads: UnsafeMutablePointer<fd_set>?, _ writes: UnsafeMutablePointer<fd_set>?,
    _ excepts: UnsafeMutablePointer<fd_set>?, _ timeout: UnsafeMutablePointer<timeval>?
) -> CInt {
    let sets = SelectSets(count: count, reads: reads, writes: writes, excepts: excepts)
    guard count > 0, count <= 1024, sets.concernsSessions else {
        return real_select(count, reads, writes, excepts, timeout)
    }
    guard let timeout else { return sets.wait(-1, nil) }
    guard KnownMemory.isValid(timeout, MemoryLayout<timeval>.size, forWriting: true) else { return fail(EFAULT) }
    guard timeout.pointee.tv_sec >= 0, timeout.pointee.tv_usec >= 0 else { return fail(EINVAL) }
    let limit =
        timeout.pointee.tv_sec >= 1 << 32
        ? -1 : timeout.pointee.tv_sec &* 1_000_000_000 &+ timeout.pointee.tv_usec &* 1000
    let begin = libc_nanoseconds()
    let result = sets.wait(limit, nil)
    // Linux leaves the time that was not slept.
    let left = max(0, limit &- Int(libc_nanoseconds() &- begin))
    if limit >= 0 { timeout.pointee = timeval(tv_sec: left / 1_000_000_000, tv_usec: left % 1_000_000_000 / 1000) }
    return result
}

@c @implementation
public func switch_pselect(
    _ count: CInt, _ reads: UnsafeMutablePointer<fd_set>?, _ writes: UnsafeMutablePointer<fd_set>?,
    _ excepts: UnsafeMutablePointer<fd_set>?, _ timeout: UnsafePointer<timespec>?, _ mask: UnsafePointer<sigset_t>?
) -> CInt {
    let sets = SelectSets(count: count, reads: reads, writes: writes, excepts: excepts)
    guard count > 0, count <= 1024, sets.concernsSessions, let limit = duration(timeout) else {
        return real_pselect(count, reads, writes, excepts, timeout, mask)
    }
    return sets.wait(limit, mask)
}
