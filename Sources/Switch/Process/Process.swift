import CLibc
import Libc
import Synchronization

/// This process, and what holds for all of it.
enum Process {
    /// The process that the tables describe. A vfork child runs in the same memory with another pid, and must not change them.
    nonisolated(unsafe) static var pid: UInt32 = 0

    /// Whether the caller may change the tables: false in a vfork child or after a raw clone. One system call; for rare calls.
    static var isOwn: Bool { UInt32(truncatingIfNeeded: sys_getpid()) == pid }

    nonisolated(unsafe) private static var isReady = false

    /// Starts what the first TCP socket needs: configuration, table, embedded provider, fork handlers. False: everything stays on
    /// TCP.
    static func prepare() -> Bool {
        if isReady { return true }
        guard DescriptorTable.create() else { return false }
        Providers.lock.lock()
        defer { Providers.lock.unlock() }
        if isReady { return true }
        guard settings.isOn, ConfigurationFiles.load() else {
            settings.isOn = false
            return false
        }
        pid = UInt32(truncatingIfNeeded: sys_getpid())
        guard Providers.startEmbedded() else { return false }
        _ = libc_on_fork({ forkPrepare() }, { forkParent() }, { forkChild() })
        isReady = true
        return true
    }
}
