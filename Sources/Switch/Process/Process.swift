import CLibc
import CProvider
import Libc
import SANShm
import Synchronization

/// This process, and what holds for all of it.
enum Process {
    /// The process that the tables describe. A vfork child runs in the same memory with another pid, and must not change them.
    nonisolated(unsafe) static var pid: UInt32 = 0

    /// Whether the caller may change the tables: false in a vfork child or after a raw clone. One system call; for rare calls.
    static var isOwn: Bool { UInt32(truncatingIfNeeded: sys_getpid()) == pid }

    nonisolated(unsafe) static var provider = san_functions()
    nonisolated(unsafe) static var direct = san_direct_memory()
    nonisolated(unsafe) private static var isReady = false

    /// Starts what the first TCP socket needs: table, provider, fork handlers. False: no memory, everything stays on TCP.
    static func prepare() -> Bool {
        if isReady { return true }
        guard DescriptorTable.create() else { return false }
        guardian.lock()
        defer { guardian.unlock() }
        if isReady { return true }
        pid = UInt32(truncatingIfNeeded: sys_getpid())
        guard startProvider() else { return false }
        _ = libc_on_fork({ forkPrepare() }, { forkParent() }, { forkChild() })
        isReady = true
        return true
    }

    private static func startProvider() -> Bool {
        var info = san_provider_info()
        let tcp = san_protocol(family: AF_INET, type: CInt(SOCK_STREAM.rawValue), protocol: CInt(IPPROTO_TCP))
        var upcalls = san_upcalls()
        upcalls.size = UInt64(MemoryLayout<san_upcalls>.size)
        upcalls.place_descriptor = { HiddenDescriptors.place($0) }
        upcalls.release_descriptor = { HiddenDescriptors.release($0) }
        guard
            shmStartup(version: UInt32(SAN_ABI_VERSION), tcp: tcp, upcalls: upcalls, functions: &provider, info: &info)
                == 0
        else { return false }
        var guid = SAN_DIRECT_MEMORY
        return provider.ioctl(
            0, UInt32(SAN_IOCTL_GET_EXTENSION), &guid, MemoryLayout<san_guid>.size, &direct,
            MemoryLayout<san_direct_memory>.size) == 0
    }
}
