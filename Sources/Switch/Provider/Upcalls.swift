import CLibc
import CProvider
import Synchronization

/// The switch's own descriptors of companions (WPUCreateSocketHandle and its companions, seed 1). A provider names its socket to
/// the switch by the handle that it got here; the switch names it to the provider by the provider's own descriptor.
struct SwitchHandle {
    /// Seen in a handle that is in use: what a provider passes is checked, since it may pass anything that it has.
    static let mark: UInt64 = 0x5341_4e48_414e_444c

    var mark: UInt64
    /// The provider's own record.
    var context: UnsafeMutableRawPointer?
    var next: UnsafeMutablePointer<SwitchHandle>?
}

enum Upcalls {
    /// Handles not in use; pooled, never freed, so that one closed twice is noticed.
    nonisolated(unsafe) private static var free: UnsafeMutablePointer<SwitchHandle>?
    /// Handles in use.
    static let inUse = Atomic<Int>(0)

    static var table: san_upcalls {
        san_upcalls(
            size: UInt64(MemoryLayout<san_upcalls>.size), create_socket_handle: { Upcalls.create($0, $1) },
            query_socket_handle_context: { Upcalls.context($0) }, close_socket_handle: { Upcalls.close($0) },
            place_descriptor: { HiddenDescriptors.place($0) }, release_descriptor: { HiddenDescriptors.release($0) })
    }

    private static func create(_ context: UnsafeMutableRawPointer?, _ out: UnsafeMutablePointer<san_switch_socket>?)
        -> CInt
    {
        guard let out else { return -EINVAL }
        guardian.lock()
        defer { guardian.unlock() }
        let handle = free ?? UnsafeMutablePointer<SwitchHandle>.allocate(capacity: 1)
        free = free?.pointee.next
        handle.initialize(to: SwitchHandle(mark: SwitchHandle.mark, context: context))
        inUse.wrappingAdd(1, ordering: .relaxed)
        out.pointee = san_switch_socket(UInt(bitPattern: handle))
        return 0
    }

    private static func find(_ socket: san_switch_socket) -> UnsafeMutablePointer<SwitchHandle>? {
        guard let handle = UnsafeMutablePointer<SwitchHandle>(bitPattern: UInt(socket)),
            handle.pointee.mark == SwitchHandle.mark
        else { return nil }
        return handle
    }

    private static func context(_ socket: san_switch_socket) -> UnsafeMutableRawPointer? {
        find(socket)?.pointee.context
    }

    private static func close(_ socket: san_switch_socket) {
        guardian.lock()
        defer { guardian.unlock() }
        guard let handle = find(socket) else { return }
        handle.initialize(to: SwitchHandle(mark: 0, context: nil, next: free))
        free = handle
        inUse.wrappingSubtract(1, ordering: .relaxed)
    }
}
