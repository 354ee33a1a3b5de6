import CLibc
import Libc
import Synchronization

/// This process, and what holds for all of it.
enum Process {
    /// The process that the tables describe. A vfork child runs in the same memory with another pid, and must not change them.
    nonisolated(unsafe) static var pid: UInt32 = 0

    /// Whether the caller may change the tables: false in a vfork child or after a raw clone. One system call; for rare calls.
    static var isOwn: Bool { UInt32(truncatingIfNeeded: sys_getpid()) == pid }

    nonisolated(unsafe) private static var hasBegun = false
    nonisolated(unsafe) private static var isReady = false

    /// Starts what the first epoll set needs: table and fork handlers. False: no memory, everything stays the kernel's.
    static func begin() -> Bool {
        if hasBegun { return true }
        guard DescriptorTable.create() else { return false }
        Providers.lock.lock()
        defer { Providers.lock.unlock() }
        if hasBegun { return true }
        pid = UInt32(truncatingIfNeeded: sys_getpid())
        _ = libc_on_fork({ forkPrepare() }, { forkParent() }, { forkChild() })
        hasBegun = true
        return true
    }

    /// Starts what the first TCP socket needs: configuration and embedded provider as well. False: everything stays on TCP.
    static func prepare() -> Bool {
        if isReady { return true }
        guard begin() else { return false }
        Providers.lock.lock()
        defer { Providers.lock.unlock() }
        if isReady { return true }
        guard settings.isOn, ConfigurationFiles.load() else {
            settings.isOn = false
            return false
        }
        guard Providers.startEmbedded() else { return false }
        isReady = true
        return true
    }
}
