import CLibc
import Libc
import Synchronization

/// Which pages of the program may be read or written, as the kernel last said. Copying to or from a bad pointer must give
/// EFAULT, and a fault handler is not ours to install; so an unknown page is asked for (MADV_POPULATE_READ and _WRITE check and
/// fault in, Linux 5.14) and then remembered until the program unmaps something.
///
/// What this cannot see: memory that libc itself unmaps between two calls with the same stale pointer (docs/limits.md).
enum KnownMemory {
    static let entries = 1024
    static let pageShift: UInt = 12
    /// page << 2 | writable << 1 | readable, tagged with the generation; direct mapped by page number.
    nonisolated(unsafe) private static var table: UnsafeMutablePointer<Atomic<UInt64>>?
    private static let generation = Atomic<UInt64>(1)

    /// Everything known is forgotten: the program unmapped memory.
    @inline(__always)
    static func forget() { if table != nil { generation.wrappingAdd(1, ordering: .releasing) } }

    @inline(__always)
    static func isValid(_ address: UnsafeMutableRawPointer, _ length: Int, forWriting: Bool) -> Bool {
        let first = UInt(bitPattern: address) >> pageShift
        let last = (UInt(bitPattern: address) &+ UInt(bitPattern: length) &- 1) >> pageShift
        guard let table else { return ask(first, last, forWriting) }
        let now = generation.load(ordering: .acquiring)
        var page = first
        while page <= last {
            let entry = table[Int(page) & (entries &- 1)].load(ordering: .relaxed)
            if entry >> 2 != tag(page, now) || (forWriting && entry & 2 == 0) { return ask(page, last, forWriting) }
            page &+= 1
        }
        return true
    }

    @inline(__always)
    private static func tag(_ page: UInt, _ generation: UInt64) -> UInt64 {
        (UInt64(page) | generation << 40) & (UInt64.max >> 2)
    }

    @inline(never)
    private static func ask(_ first: UInt, _ last: UInt, _ forWriting: Bool) -> Bool {
        guard first <= last, last < UInt(1) << 40 else { return false }
        if table == nil, let memory = sys_map(entries * 8, -1, MAP_PRIVATE | MAP_ANONYMOUS) {
            table = memory.bindMemory(to: Atomic<UInt64>.self, capacity: entries)
        }
        let now = generation.load(ordering: .acquiring)
        let start = UnsafeMutableRawPointer(bitPattern: first << pageShift)
        let length = Int((last &- first &+ 1) << pageShift)
        guard let start else { return false }
        let result = sys_madvise(start, length, forWriting ? 23 : 22)  // MADV_POPULATE_WRITE, MADV_POPULATE_READ
        if result == -Int(EINVAL) { return probe(start, length, forWriting) }
        guard result == 0 else {
            return result == -Int(EINTR) || result == -Int(EAGAIN) ? probe(start, length, forWriting) : false
        }
        if let table {
            var page = last &- first >= UInt(entries) ? last &- UInt(entries) &+ 1 : first
            while page <= last {
                let place = Int(page) & (entries &- 1)
                let before = table[place].load(ordering: .relaxed)
                let rights: UInt64 = forWriting ? 3 : before >> 2 == tag(page, now) ? before & 3 | 1 : 1
                table[place].store(tag(page, now) << 2 | rights, ordering: .relaxed)
                page &+= 1
            }
        }
        return true
    }

    /// Page by page through the kernel's own copy, for kernels and mappings that cannot be populated.
    private static func probe(_ start: UnsafeMutableRawPointer, _ length: Int, _ forWriting: Bool) -> Bool {
        var byte: UInt8 = 0
        let pid = pid_t(truncatingIfNeeded: sys_getpid())
        for offset in stride(from: 0, to: length, by: 1 << Int(pageShift)) {
            let ok = withUnsafeMutablePointer(to: &byte) { byte in
                var mine = iovec(iov_base: byte, iov_len: 1)
                var theirs = iovec(iov_base: start + offset, iov_len: 1)
                return process_vm_readv(pid, &mine, 1, &theirs, 1, 0) == 1
                    && (!forWriting || process_vm_writev(pid, &mine, 1, &theirs, 1, 0) == 1)
            }
            if !ok { return false }
        }
        return true
    }
}
