import CLibc
import Libc
import Synchronization

/// Descriptors that belong to the switch: closed on exec, and not there for the program. They live beyond the soft limit on
/// descriptor numbers (RLIMIT_NOFILE), where the program gets none and can name none, if the hard limit has room there; else high
/// up within the limit, and give way when the program needs the number (GivingWay.swift).
enum HiddenDescriptors {
    /// One at a time moves or gives up descriptors; taken before every other lock.
    private static let lock = ProcessLock()
    private static let owner = Atomic<UInt32>(0)
    /// Within a limit that is larger than this nobody misses a number, and the kernel's table grows with the numbers in it.
    private static let largeLimit: rlim_t = 1 << 16

    /// Until when no number within the soft limit is taken: the program ran out of them. Nanoseconds.
    private static let barredUntil = Atomic<UInt64>(0)

    /// No number less than this is ours, of those that programs with small limits count on (select's FD_SETSIZE).
    private static let lowestSmall = Atomic<CInt>(smallNumbers)
    private static let smallNumbers: CInt = 1024

    /// False: a signal handler has interrupted this very thread at it.
    static func enter() -> Bool {
        let me = libc_thread_id()
        if owner.load(ordering: .relaxed) == me { return false }
        lock.lock()
        owner.store(me, ordering: .relaxed)
        return true
    }

    static func leave() {
        owner.store(0, ordering: .relaxed)
        lock.unlock()
    }

    /// In the child of a fork, which has one thread.
    static func forgetInChild() {
        owner.store(0, ordering: .relaxed)
        lock.reset()
    }

    /// Moves `fd` to where the program does not meet it; the new number, or -EMFILE. `fd` is closed when it moved.
    static func place(_ fd: CInt) -> CInt {
        guard DescriptorTable.create() else { return -ENOMEM }
        let placed = copy(fd)
        if placed >= 0 { _ = sys_close(fd) }
        return placed
    }

    /// Another number for the file of `fd`; `replacing`: for one that the program takes.
    static func copy(_ fd: CInt, replacing: Bool = false) -> CInt {
        let limit = limits()
        var copy = copyBeyond(fd, limit)
        if copy < 0, replacing || barredUntil.load(ordering: .relaxed) <= libc_nanoseconds() {
            copy = copyWithin(fd, limit.soft)
        }
        guard copy >= 0, copy < DescriptorTable.capacity else {
            if copy >= 0 { _ = sys_close(copy) }
            return -EMFILE
        }
        hide(copy)
        return copy
    }

    static func hide(_ number: CInt) {
        DescriptorTable.exchange(number, .hidden)
        if number < smallNumbers { lowestSmall.min(number, ordering: .relaxed) }
    }

    /// The lowest number of ours that stands before `fd`, a new descriptor of the program's; -1: none.
    @inline(__always)
    static func number(before fd: CInt) -> CInt {
        let lowest = lowestSmall.load(ordering: .relaxed)
        return fd > lowest ? search(lowest, fd) : -1
    }

    private static func search(_ lowest: CInt, _ fd: CInt) -> CInt {
        let end = min(fd, smallNumbers)
        for number in lowest..<end where isHidden(number) { return number }
        // One that is placed there at this moment may be missed: the program then gets the next number.
        _ = lowestSmall.compareExchange(expected: lowest, desired: end, ordering: .relaxed)
        return -1
    }

    /// Beyond the soft limit; -EMFILE if there is nothing, or no need to go there.
    static func copyBeyond(_ fd: CInt, _ limit: (soft: rlim_t, hard: rlim_t)) -> CInt {
        guard limit.hard > limit.soft, limit.soft <= largeLimit else { return -EMFILE }
        return libc_copy_beyond(fd, CInt(truncatingIfNeeded: limit.soft))
    }

    private static func copyWithin(_ fd: CInt, _ soft: rlim_t) -> CInt {
        let top = CInt(truncatingIfNeeded: min(soft, largeLimit))
        // From the top down, a sixteenth at a time, so that the program's lowest free number comes near as late as possible.
        var floor = top / 16 &* 15
        while floor > top / 8 {
            let copy = sys_fcntl(fd, F_DUPFD_CLOEXEC, Int(floor))
            if copy >= 0 { return CInt(truncatingIfNeeded: copy) }
            floor = floor &- max(1, top / 16)
        }
        return -EMFILE
    }

    static func limits() -> (soft: rlim_t, hard: rlim_t) {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return (1024, 1024) }
        let capacity = rlim_t(DescriptorTable.capacity)
        return (min(limit.rlim_cur, capacity), min(limit.rlim_max, capacity))
    }

    /// The program has met the end of its numbers: for a while none of them is taken.
    static func bar() { barredUntil.store(libc_nanoseconds() &+ 10_000_000_000, ordering: .relaxed) }

    /// Forgets a number just before its owner closes it.
    static func release(_ fd: CInt) {
        if DescriptorTable.slot(fd) == .hidden { DescriptorTable.exchange(fd, .empty) }
    }

    /// Ends a descriptor of ours.
    static func close(_ fd: CInt) {
        guard fd >= 0 else { return }
        release(fd)
        _ = sys_close(fd)
    }

    static func isHidden(_ fd: CInt) -> Bool { DescriptorTable.slot(fd) == .hidden }
}
