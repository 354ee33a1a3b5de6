import CLibc
import CProvider
import Libc
import Synchronization
import Wire

/// A started provider: its function tables as start-up filled them, and what it says of itself. Never freed: sessions point to it.
struct Provider: ~Copyable {
    var functions = san_functions()
    /// Memory that both sides address; fetched by GUID.
    var direct = san_direct_memory()
    var info = san_provider_info()
    /// Place in the arrays that have one entry for each provider, 0 for the embedded one.
    let index: Int
    /// Less is asked first.
    var order: Int
    /// False once its registration is gone: what it carries goes on, nothing new comes to it.
    var isListed = true
    /// Companions that are open, listening ones included.
    let sockets = Atomic<Int>(0)
    var subnets = Subnets()
    var next: ProviderRef?

    init(index: Int, order: Int) {
        self.index = index
        self.order = order
    }
}

typealias ProviderRef = UnsafeMutablePointer<Provider>

extension UnsafeMutablePointer where Pointee == Provider {
    /// Calls `start` and fetches the extension functions. 0, or why the provider is refused.
    func start(_ start: (san_protocol, san_upcalls, inout san_functions, inout san_provider_info) -> CInt) -> CInt {
        let tcp = san_protocol(family: AF_INET, type: CInt(SOCK_STREAM.rawValue), protocol: CInt(IPPROTO_TCP))
        let result = start(tcp, Upcalls.table, &pointee.functions, &pointee.info)
        guard result == 0 else { return result }
        guard pointee.functions.size >= UInt64(MemoryLayout<san_functions>.size) else { return -ENOTSUP }
        var guid = SAN_DIRECT_MEMORY
        let fetched = pointee.functions.ioctl(
            0, UInt32(SAN_IOCTL_GET_EXTENSION), &guid, MemoryLayout<san_guid>.size, &pointee.direct,
            MemoryLayout<san_direct_memory>.size)
        guard fetched == 0 else { return fetched }
        pointee.subnets.read(pointee.functions)
        return 0
    }

    /// A new companion, or -errno.
    func socket(_ out: inout san_socket) -> CInt {
        var tcp = san_protocol(family: AF_INET, type: CInt(SOCK_STREAM.rawValue), protocol: CInt(IPPROTO_TCP))
        let result = pointee.functions.socket(&tcp, &out)
        if result == 0 { pointee.sockets.wrappingAdd(1, ordering: .relaxed) }
        return result
    }

    func bind(_ socket: san_socket, _ address: SocketAddress) -> CInt {
        address.withSocketAddress { pointee.functions.bind(socket, $0.assumingMemoryBound(to: sockaddr.self), $1) }
    }

    func connect(_ socket: san_socket, _ address: SocketAddress) -> CInt {
        address.withSocketAddress { pointee.functions.connect(socket, $0.assumingMemoryBound(to: sockaddr.self), $1) }
    }

    /// How the connect that answered -EINPROGRESS has ended, or -EINPROGRESS.
    func connectResult(_ socket: san_socket) -> CInt {
        pointee.functions.ioctl(socket, UInt32(SAN_IOCTL_CONNECT_RESULT), nil, 0, nil, 0)
    }

    func accept(_ listening: san_socket, _ out: inout san_socket) -> CInt {
        let result = pointee.functions.accept(listening, &out)
        if result == 0 { pointee.sockets.wrappingAdd(1, ordering: .relaxed) }
        return result
    }

    func adopt(_ channel: san_socket, _ out: inout san_socket) -> CInt {
        let result = pointee.functions.adopt(channel, &out)
        if result == 0 { pointee.sockets.wrappingAdd(1, ordering: .relaxed) }
        return result
    }

    func close(_ socket: san_socket) {
        _ = pointee.functions.close(socket)
        pointee.sockets.wrappingSubtract(1, ordering: .relaxed)
    }

    /// Bytes of large ring that a session of this provider exposes.
    var ringBytes: UInt64 {
        let most = UInt64(pointee.info.maximum_ring)
        return most >= 4096 && most < Limits.maximumRing && most & (most &- 1) == 0 ? most : Limits.maximumRing
    }
}
