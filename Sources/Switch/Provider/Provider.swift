import CLibc
import CProvider
import Libc
import Registry
import Synchronization
import Wire

/// A started provider: its function tables as start-up filled them, and what it says of itself. Never freed: sessions point to it.
struct Provider: ~Copyable {
    var functions: san_functions
    /// Memory that both sides address; fetched by GUID.
    var direct: san_direct_memory
    var info: san_provider_info
    /// Place in the arrays that have one entry for each provider, 0 for the embedded one.
    let index: Int
    /// Where it is registered: name and library, C strings that stay. No library: built in.
    let name: UnsafePointer<CChar>
    let library: UnsafePointer<CChar>?
    /// Less is asked first.
    var order: Int
    /// False once its registration is gone: what it carries goes on, nothing new comes to it.
    var isListed = true
    /// The round of `Providers.rescan` that found it registered last.
    var round: UInt64 = 0
    /// False after `cleanup`.
    var isStarted = true
    /// Companions that are open, listening ones included.
    let sockets = Atomic<Int>(0)
    var subnets = Subnets()
    var next: ProviderRef?

    init(_ tables: ProviderTables, _ registration: Registration, index: Int) {
        functions = tables.functions
        direct = tables.direct
        info = tables.info
        self.index = index
        name = registration.name
        library = registration.library
        order = registration.order
        subnets.read(functions)
    }
}

typealias ProviderRef = UnsafeMutablePointer<Provider>

extension UnsafeMutablePointer where Pointee == Provider {
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

    func isRegistered(as registration: Registration) -> Bool {
        guard strcmp(pointee.name, registration.name) == 0 else { return false }
        guard let library = pointee.library, let other = registration.library else {
            return pointee.library == nil && registration.library == nil
        }
        return strcmp(library, other) == 0
    }
}
