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
    /// Calls the provider, whatever it does to errno.
    @inline(__always)
    private func call<T>(_ body: () -> T) -> T {
        let saved = libc_errno()
        defer { libc_set_errno(saved) }
        return body()
    }

    /// The answer of a call that has made `socket`, counted; -EPROTO for a success that is none.
    private func opened(_ result: CInt, _ socket: san_socket) -> CInt {
        guard result == 0 else { return result < 0 ? result : -EPROTO }
        guard socket != 0 else { return -EPROTO }
        pointee.sockets.wrappingAdd(1, ordering: .relaxed)
        return 0
    }

    /// A new companion, or -errno.
    func socket(_ out: inout san_socket) -> CInt {
        out = 0
        var tcp = ProviderTables.tcp
        return opened(call { pointee.functions.socket(&tcp, &out) }, out)
    }

    func bind(_ socket: san_socket, _ address: SocketAddress) -> CInt {
        call {
            address.withSocketAddress { pointee.functions.bind(socket, $0.assumingMemoryBound(to: sockaddr.self), $1) }
        }
    }

    func listen(_ socket: san_socket) -> CInt { call { pointee.functions.listen(socket, 1024) } }

    func connect(_ socket: san_socket, _ address: SocketAddress) -> CInt {
        call {
            address.withSocketAddress {
                pointee.functions.connect(socket, $0.assumingMemoryBound(to: sockaddr.self), $1)
            }
        }
    }

    /// How the connect that answered -EINPROGRESS has ended, or -EINPROGRESS.
    func connectResult(_ socket: san_socket) -> CInt {
        call { pointee.functions.ioctl(socket, UInt32(SAN_IOCTL_CONNECT_RESULT), nil, 0, nil, 0) }
    }

    func accept(_ listening: san_socket, _ out: inout san_socket) -> CInt {
        out = 0
        return opened(call { pointee.functions.accept(listening, &out) }, out)
    }

    func duplicate(_ socket: san_socket, to channel: san_socket, _ message: UnsafeRawBufferPointer) -> CInt {
        call { pointee.functions.duplicate(socket, channel, message.baseAddress, message.count) }
    }

    func adopt(_ channel: san_socket, _ out: inout san_socket) -> CInt {
        out = 0
        return opened(call { pointee.functions.adopt(channel, &out) }, out)
    }

    func setOption(_ socket: san_socket, _ level: CInt, _ name: CInt, _ value: UnsafeRawPointer, _ length: socklen_t)
        -> CInt
    {
        call { pointee.functions.set_option(socket, level, name, value, length) }
    }

    /// -1 unless it is one that the provider has placed: any other number is, or will be, the program's.
    func eventDescriptor(_ socket: san_socket) -> CInt {
        let fd = call { pointee.functions.event_descriptor(socket) }
        return HiddenDescriptors.isHidden(fd) ? fd : -1
    }

    /// The program needs the number `from`; the file is open as `to`, too, or -1. False: not of this socket, or the provider cannot.
    func renumber(_ socket: san_socket, _ from: CInt, _ to: CInt) -> Bool {
        var change = san_renumber(from: from, to: to)
        let length = MemoryLayout<san_renumber>.size
        return call { pointee.functions.ioctl(socket, UInt32(SAN_IOCTL_RENUMBER), &change, length, nil, 0) } == 0
    }

    func peer(_ socket: san_socket, _ out: inout san_peer) -> CInt { call { pointee.functions.peer(socket, &out) } }

    func send(_ socket: san_socket, _ message: UnsafeRawBufferPointer) -> Bool {
        call { pointee.functions.send(socket, message.baseAddress, message.count) } == message.count
    }

    /// The length of a whole message, 0 at the end, or -errno. Never more than there is room for.
    func receive(_ socket: san_socket, _ buffer: UnsafeMutableRawBufferPointer) -> Int {
        let count = call { pointee.functions.recv(socket, buffer.baseAddress, buffer.count) }
        return count <= buffer.count ? count : -Int(EPROTO)
    }

    func close(_ socket: san_socket) {
        _ = call { pointee.functions.close(socket) }
        pointee.sockets.wrappingSubtract(1, ordering: .relaxed)
    }

    /// Memory for the peer to write: where it is, and how many bytes of `descriptor` tell the peer; nil when there is none.
    func expose(_ socket: san_socket, _ length: Int, _ descriptor: UnsafeMutableRawBufferPointer)
        -> (UnsafeMutableRawPointer, Int)?
    {
        var address: UnsafeMutableRawPointer?
        var used = descriptor.count
        let result = call { pointee.direct.expose(socket, length, &address, descriptor.baseAddress, &used) }
        guard result == 0, let address, used >= 0, used <= descriptor.count else { return nil }
        return (address, used)
    }

    func map(_ socket: san_socket, _ descriptor: UnsafeRawBufferPointer, _ length: Int) -> UnsafeMutableRawPointer? {
        var address: UnsafeMutableRawPointer?
        let result = call { pointee.direct.map(socket, descriptor.baseAddress, descriptor.count, length, &address) }
        return result == 0 ? address : nil
    }

    func unmap(_ address: UnsafeMutableRawPointer, _ length: Int) { _ = call { pointee.direct.unmap(address, length) } }

    func ringDoorbell(_ socket: san_socket) -> CInt { call { pointee.direct.ring_doorbell(socket) } }

    func waitDoorbell(_ socket: san_socket) -> CInt { call { pointee.direct.wait_doorbell(socket) } }

    func interrupt(_ socket: san_socket) { _ = call { pointee.direct.interrupt(socket) } }

    func silenceDoorbell(_ socket: san_socket) -> CInt { call { pointee.direct.silence_doorbell(socket) } }

    func finish(_ socket: san_socket) { _ = call { pointee.direct.finish(socket) } }

    /// Whether what is written for the peer must be brought to it: mapped memory is a copy.
    @inline(__always) var copies: Bool { pointee.direct.push != nil }

    func push(_ socket: san_socket, _ offset: Int, _ length: Int) -> CInt {
        call { pointee.direct.push(socket, offset, length) }
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
