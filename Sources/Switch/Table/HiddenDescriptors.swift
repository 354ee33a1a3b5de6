import CLibc
import Libc
import Synchronization

/// Descriptors that belong to the switch. They live in the upper quarter of the numbers the process may have, are closed on
/// exec, and the program can neither close nor overwrite them.
enum HiddenDescriptors {
    nonisolated(unsafe) private static var floor: CInt = 0

    /// Moves `fd` up; the new number, or -EMFILE when the upper quarter is full. `fd` is closed when it moved.
    static func place(_ fd: CInt) -> CInt {
        guard DescriptorTable.create() else { return -ENOMEM }
        if floor == 0 {
            var limit = rlimit()
            let soft = getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 ? limit.rlim_cur : 1024
            floor = CInt(truncatingIfNeeded: min(soft, rlim_t(DescriptorTable.capacity)) / 4 * 3)
        }
        let placed = sys_fcntl(fd, F_DUPFD_CLOEXEC, Int(floor))
        guard placed >= 0, placed < DescriptorTable.capacity else {
            if placed >= 0 { _ = sys_close(CInt(placed)) }
            return -EMFILE
        }
        DescriptorTable.exchange(CInt(placed), .hidden)
        _ = sys_close(fd)
        return CInt(placed)
    }

    /// Forgets a number just before its owner closes it.
    static func release(_ fd: CInt) {
        if DescriptorTable.slot(fd) == .hidden { DescriptorTable.exchange(fd, .empty) }
    }

    static func isHidden(_ fd: CInt) -> Bool { DescriptorTable.slot(fd) == .hidden }
}
