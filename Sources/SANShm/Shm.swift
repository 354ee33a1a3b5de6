import CLibc
import CProvider
import Libc
import Synchronization
import Wire

/// The embedded provider: memory shared between two processes of one host. A companion is a connected AF_UNIX stream
/// socket; it carries the negotiation messages with the memfds of exposed memory, and after that it is the doorbell:
/// a byte wakes the peer, its end tells that the peer is gone.
struct Companion: ~Copyable {
    /// Changes when the program needs the number (renumber); read by each call anew.
    let fd: Atomic<CInt>
    /// Calls that have read `fd` and are still at it; those that block do not count.
    let users = Atomic<CInt>(0)
    /// Exposed memory not yet passed to the peer, or received and not yet mapped; -1 for none.
    var memory: CInt = -1
    /// A companion received by duplication, until `adopt` takes it.
    var adopted: CInt = -1
    /// The switch's descriptor of this companion; 0 until the upcall gave one.
    var handle: san_switch_socket = 0
    var bound: SocketAddress?

    init(fd: CInt, memory: CInt = -1) {
        self.fd = Atomic(fd)
        self.memory = memory
    }
}

typealias Handle = UnsafeMutablePointer<Companion>

@inline(__always)
func companion(_ socket: san_socket) -> Handle { Handle(bitPattern: UInt(socket)).unsafelyUnwrapped }

/// A call on the socket that does not block.
@inline(__always)
private func using<R>(_ socket: san_socket, _ call: (CInt) -> R) -> R {
    let handle = companion(socket)
    handle.pointee.users.wrappingAdd(1, ordering: .sequentiallyConsistent)
    defer { handle.pointee.users.wrappingSubtract(1, ordering: .sequentiallyConsistent) }
    return call(handle.pointee.fd.load(ordering: .sequentiallyConsistent))
}

nonisolated(unsafe) var upcalls = san_upcalls()

/// How the embedded provider is registered without a file of its own.
public enum ShmIdentity {
    public static let order = 50
    public static var name: UnsafePointer<CChar> {
        let text: StaticString = "shm"
        return UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self)
    }
    public static var guid: san_guid {
        san_guid(a: 0x5a4e_5357, b: 0, c: 0x4d45, d: (0x8d, 0x4f, 0x52, 0x59, 0, 0, 0, 1))
    }
}

/// Start-ups less clean-ups.
private let starts = Atomic<Int>(0)

/// `san_startup_ex` of the embedded provider.
public func shmStartup(
    version: UInt32, tcp: UnsafePointer<san_protocol>, upcalls given: UnsafePointer<san_upcalls>,
    functions: UnsafeMutablePointer<san_functions>, info: UnsafeMutablePointer<san_provider_info>
) -> CInt {
    guard version == SAN_ABI_VERSION else { return -ENOTSUP }
    guard tcp.pointee.type == CInt(SOCK_STREAM.rawValue) else { return -EINVAL }
    upcalls = given.pointee
    starts.wrappingAdd(1, ordering: .relaxed)
    functions.pointee = san_functions(
        size: UInt64(MemoryLayout<san_functions>.size), cleanup: shmCleanup, socket: shmSocket, bind: shmBind,
        set_option: { _, _, _, _, _ in 0 }, listen: shmListen, connect: shmConnect, accept: shmAccept,
        event_descriptor: { companion($0).pointee.fd.load(ordering: .relaxed) }, peer: shmPeer, send: shmSend,
        recv: shmReceive,
        ioctl: shmControl,
        duplicate: shmDuplicate, adopt: shmAdopt, close: shmClose)
    info.pointee = san_provider_info()
    withUnsafeMutableBytes(of: &info.pointee.name) { memcpy($0.baseAddress!, ShmIdentity.name, 3) }
    info.pointee.guid = ShmIdentity.guid
    info.pointee.maximum_ring = UInt32(Limits.maximumRing)
    return 0
}

private func shmCleanup() -> CInt {
    if starts.load(ordering: .relaxed) == 0 { return -EINVAL }
    starts.wrappingSubtract(1, ordering: .relaxed)
    return 0
}

private func adoptDescriptor(_ fd: CInt) -> CInt {
    let placed = upcalls.place_descriptor?(fd) ?? fd
    if placed < 0 { _ = sys_close(fd) }
    return placed
}

private func release(_ fd: CInt) {
    guard fd >= 0 else { return }
    upcalls.release_descriptor?(fd)
    _ = sys_close(fd)
}

private func make(_ fd: CInt, out: UnsafeMutablePointer<san_socket>?) -> CInt {
    let placed = adoptDescriptor(fd)
    return placed < 0 ? placed : publish(Companion(fd: placed), out)
}

/// The record first, then the switch's handle for it, then our own descriptor to the switch (seed 1).
private func publish(_ companion: consuming Companion, _ out: UnsafeMutablePointer<san_socket>?) -> CInt {
    let handle = Handle.allocate(capacity: 1)
    handle.initialize(to: companion)
    let result = upcalls.create_socket_handle?(handle, &handle.pointee.handle) ?? 0
    guard result == 0 else {
        _ = shmClose(san_socket(UInt(bitPattern: handle)))
        return result
    }
    out?.pointee = san_socket(UInt(bitPattern: handle))
    return 0
}

private func shmSocket(_ tcp: UnsafePointer<san_protocol>?, _ out: UnsafeMutablePointer<san_socket>?) -> CInt {
    guard let tcp, tcp.pointee.type == CInt(SOCK_STREAM.rawValue) else { return -EPROTOTYPE }
    let fd = sys_socket(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    // Its place among our descriptors costs more than all the rest; one that meets nobody needs none.
    return fd < 0 ? CInt(fd) : publish(Companion(fd: CInt(fd)), out)
}

/// The socket is here to stay.
private func place(_ socket: san_socket) -> CInt {
    let handle = companion(socket)
    let placed = adoptDescriptor(handle.pointee.fd.load(ordering: .relaxed))
    handle.pointee.fd.store(placed, ordering: .relaxed)
    return min(placed, 0)
}

private func shmClose(_ socket: san_socket) -> CInt {
    let handle = companion(socket)
    release(handle.pointee.fd.load(ordering: .relaxed))
    release(handle.pointee.memory)
    release(handle.pointee.adopted)
    if handle.pointee.handle != 0 { upcalls.close_socket_handle?(handle.pointee.handle) }
    handle.deinitialize(count: 1)
    handle.deallocate()
    return 0
}

// MARK: Rendezvous: abstract names made of the TCP address, scoped by the network namespace as TCP's ports are

private func shmBind(_ socket: san_socket, _ address: UnsafePointer<sockaddr>?, _ length: socklen_t) -> CInt {
    guard let address, let bound = SocketAddress(UnsafeRawPointer(address), length: Int(length)) else { return -EINVAL }
    companion(socket).pointee.bound = bound
    return 0
}

private func withName<R>(of address: SocketAddress, _ body: (UnsafeRawPointer, socklen_t) -> R) -> R {
    var name = sockaddr_un()
    name.sun_family = sa_family_t(AF_UNIX)
    let prefix: StaticString = "sanswitch/tcp/"
    var length = 3 + prefix.utf8CodeUnitCount
    withUnsafeMutableBytes(of: &name) { bytes in
        memcpy(bytes.baseAddress! + 3, prefix.utf8Start, prefix.utf8CodeUnitCount)
        func hex(_ value: UInt64, _ digits: Int) {
            for digit in 0..<digits {
                let nibble = UInt8(truncatingIfNeeded: value >> UInt64(4 &* (digits &- 1 &- digit))) & 15
                bytes[length] = nibble < 10 ? 0x30 &+ nibble : 0x57 &+ nibble
                length &+= 1
            }
        }
        hex(UInt64(address.port), 4)
        if !address.isWildcard {
            hex(UInt64(bigEndian: address.high), 16)
            hex(UInt64(bigEndian: address.low), 16)
        }
    }
    return withUnsafeBytes(of: &name) { body($0.baseAddress!, socklen_t(length)) }
}

private func shmListen(_ socket: san_socket, _ backlog: CInt) -> CInt {
    guard let bound = companion(socket).pointee.bound else { return -EINVAL }
    let placed = place(socket)
    guard placed == 0 else { return placed }
    return using(socket) { fd in
        let result = withName(of: bound) { sys_bind(fd, $0, $1) }
        return CInt(result == 0 ? sys_listen(fd, 1024) : result)
    }
}

private func shmConnect(_ socket: san_socket, _ address: UnsafePointer<sockaddr>?, _ length: socklen_t) -> CInt {
    guard let address, let server = SocketAddress(UnsafeRawPointer(address), length: Int(length)) else {
        return -EINVAL
    }
    let result = using(socket) { fd in
        // A full backlog must not block the program: non-blocking for this one call, blocking again for wait_doorbell.
        let flags = sys_fcntl(fd, F_GETFL, 0)
        _ = sys_fcntl(fd, F_SETFL, flags | Int(O_NONBLOCK))
        var result = withName(of: server) { sys_connect(fd, $0, $1) }
        if result == -Int(ECONNREFUSED) {
            result = withName(of: SocketAddress(high: 0, low: 0, port: server.port)) { sys_connect(fd, $0, $1) }
        }
        _ = sys_fcntl(fd, F_SETFL, flags)
        return CInt(result)
    }
    return result == 0 ? place(socket) : result
}

private func shmAccept(_ listener: san_socket, _ out: UnsafeMutablePointer<san_socket>?) -> CInt {
    let fd = using(listener) {
        var entry = pollfd(fd: $0, events: CShort(POLLIN), revents: 0)
        return sys_poll(&entry, 1, 0) > 0 ? sys_accept4($0, CInt(SOCK_CLOEXEC.rawValue)) : -Int(EAGAIN)
    }
    return fd < 0 ? CInt(fd) : make(CInt(fd), out: out)
}

private func shmPeer(_ socket: san_socket, _ out: UnsafeMutablePointer<san_peer>?) -> CInt {
    var credentials = ucred()
    var length = socklen_t(MemoryLayout<ucred>.size)
    let result = using(socket) { sys_getsockopt($0, SOL_SOCKET, SO_PEERCRED, &credentials, &length) }
    guard result == 0 else { return CInt(result) }
    out?.pointee = san_peer(pid: credentials.pid, uid: credentials.uid)
    return 0
}

// MARK: Messages, with descriptors beside them

/// Sends `bytes` with up to two descriptors.
private func transmit(_ fd: CInt, _ bytes: UnsafeRawPointer, _ length: Int, _ first: CInt, _ second: CInt) -> Int {
    var control: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    var vector = iovec(iov_base: UnsafeMutableRawPointer(mutating: bytes), iov_len: length)
    return withUnsafeMutablePointer(to: &vector) { vector in
        withUnsafeMutableBytes(of: &control) { control in
            var message = msghdr()
            message.msg_iov = vector
            message.msg_iovlen = 1
            let count = first < 0 ? 0 : second < 0 ? 1 : 2
            if count > 0 {
                message.msg_control = control.baseAddress
                message.msg_controllen = libc_cmsg_space(count * 4)
                let header = libc_cmsg_first(&message).unsafelyUnwrapped
                header.pointee.cmsg_level = SOL_SOCKET
                header.pointee.cmsg_type = CInt(SCM_RIGHTS)
                header.pointee.cmsg_len = libc_cmsg_length(count * 4)
                let data = libc_cmsg_data(header).unsafelyUnwrapped.assumingMemoryBound(to: CInt.self)
                data[0] = first
                if count == 2 { data[1] = second }
            }
            return sys_sendmsg(fd, &message, CInt(MSG_DONTWAIT | MSG_NOSIGNAL))
        }
    }
}

private func shmSend(_ socket: san_socket, _ message: UnsafeRawPointer?, _ length: Int) -> Int {
    guard let message, length == Message.size else { return -Int(EINVAL) }
    let handle = companion(socket)
    let result = using(socket) { transmit($0, message, length, handle.pointee.memory, -1) }
    if result == length {
        release(handle.pointee.memory)
        handle.pointee.memory = -1
    }
    return result >= 0 && result < length ? -Int(EPIPE) : result
}

private func shmReceive(_ socket: san_socket, _ buffer: UnsafeMutableRawPointer?, _ capacity: Int) -> Int {
    guard let buffer, capacity >= Message.size else { return -Int(EINVAL) }
    let handle = companion(socket)
    let waiting = using(socket) { sys_recv($0, buffer, Message.size, CInt(MSG_PEEK | MSG_DONTWAIT)) }
    if waiting <= 0 { return waiting }
    // A message is sent by one call and arrives whole: half of one is no peer of ours.
    guard waiting == Message.size else { return -Int(EPROTO) }
    var control: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    var received: (CInt, CInt) = (-1, -1)
    var vector = iovec(iov_base: buffer, iov_len: Message.size)
    let result = withUnsafeMutablePointer(to: &vector) { vector in
        withUnsafeMutableBytes(of: &control) { control in
            var message = msghdr()
            message.msg_iov = vector
            message.msg_iovlen = 1
            message.msg_control = control.baseAddress
            message.msg_controllen = control.count
            let result = using(socket) { sys_recvmsg($0, &message, CInt(MSG_DONTWAIT) | CInt(MSG_CMSG_CLOEXEC)) }
            if result > 0, let header = libc_cmsg_first(&message), header.pointee.cmsg_level == SOL_SOCKET,
                header.pointee.cmsg_type == CInt(SCM_RIGHTS)
            {
                let data = libc_cmsg_data(header).unsafelyUnwrapped.assumingMemoryBound(to: CInt.self)
                let count = (Int(header.pointee.cmsg_len) - Int(libc_cmsg_length(0))) / 4
                if count > 0 { received.0 = data[0] }
                if count > 1 { received.1 = data[1] }
                for extra in 2..<max(2, count) { _ = sys_close(data[extra]) }
            }
            return result
        }
    }
    if received.0 >= 0 {
        release(handle.pointee.memory)
        handle.pointee.memory = adoptDescriptor(received.0)
    }
    if received.1 >= 0 {
        release(handle.pointee.adopted)
        handle.pointee.adopted = adoptDescriptor(received.1)
    }
    return result
}

// MARK: Passing a companion to the process that accepted the connection

private func shmDuplicate(_ socket: san_socket, _ channel: san_socket, _ message: UnsafeRawPointer?, _ length: Int)
    -> CInt
{
    guard let message, length == Message.size else { return -EINVAL }
    let result = using(socket) { passed in
        using(channel) { transmit($0, message, length, companion(socket).pointee.memory, passed) }
    }
    return result == length ? 0 : CInt(truncatingIfNeeded: result < 0 ? result : -Int(EPIPE))
}

private func shmAdopt(_ channel: san_socket, _ out: UnsafeMutablePointer<san_socket>?) -> CInt {
    let channel = companion(channel)
    guard channel.pointee.adopted >= 0 else { return -EINVAL }
    var kind: CInt = 0
    var length = socklen_t(4)
    guard sys_getsockopt(channel.pointee.adopted, SOL_SOCKET, SO_DOMAIN, &kind, &length) == 0, kind == AF_UNIX else {
        return -EINVAL
    }
    let companion = Companion(fd: channel.pointee.adopted, memory: channel.pointee.memory)
    channel.pointee.adopted = -1
    channel.pointee.memory = -1
    return publish(companion, out)
}

// MARK: Extension functions

private func shmControl(
    _ socket: san_socket, _ code: UInt32, _ input: UnsafeRawPointer?, _ inputLength: Int,
    _ output: UnsafeMutableRawPointer?, _ outputLength: Int
) -> CInt {
    if code == UInt32(SAN_IOCTL_ADDRESS_LIST) { return -EOPNOTSUPP }
    if code == UInt32(SAN_IOCTL_RENUMBER), let input, inputLength == MemoryLayout<san_renumber>.size {
        return renumber(companion(socket), input.load(as: san_renumber.self))
    }
    guard code == UInt32(SAN_IOCTL_GET_EXTENSION), let input, inputLength == MemoryLayout<san_guid>.size else {
        return -EINVAL
    }
    if same(input, SAN_RDMA_READ) || same(input, SAN_RDMA_WRITE) || same(input, SAN_REGISTER_RDMA_MEMORY)
        || same(input, SAN_DEREGISTER_RDMA_MEMORY)
        || same(input, SAN_REGISTER_MEMORY) || same(input, SAN_DEREGISTER_MEMORY) || same(input, SAN_CACHE_CALLBACK)
    {
        return -EOPNOTSUPP
    }
    guard same(input, SAN_DIRECT_MEMORY), let output, outputLength >= MemoryLayout<san_direct_memory>.size else {
        return -EINVAL
    }
    output.storeBytes(
        of: san_direct_memory(
            size: UInt64(MemoryLayout<san_direct_memory>.size), expose: expose, map: map,
            unmap: { address, length in
                if let address { sys_unmap(address, length) }
                return 0
            },
            ring_doorbell: ringDoorbell, wait_doorbell: waitDoorbell,
            interrupt: { using($0) { CInt(sys_shutdown($0, CInt(SHUT_RD))) } },
            silence_doorbell: silenceDoorbell,
            finish: { using($0) { CInt(sys_shutdown($0, CInt(SHUT_WR))) } }, push: nil), as: san_direct_memory.self)
    return 0
}

/// The program needs the number of a descriptor (san_renumber). Calls that block are left where they are: they hold the file.
private func renumber(_ handle: Handle, _ change: san_renumber) -> CInt {
    if handle.pointee.memory == change.from {
        handle.pointee.memory = change.to
    } else if handle.pointee.adopted == change.from {
        handle.pointee.adopted = change.to
    } else if handle.pointee.fd.load(ordering: .relaxed) == change.from {
        handle.pointee.fd.store(change.to, ordering: .sequentiallyConsistent)
        // Not for ever: a thread that fork left behind counts, and so does a call that a signal handler interrupted.
        var rounds = 0
        while handle.pointee.users.load(ordering: .sequentiallyConsistent) > 0, rounds < 10_000 {
            sched_yield()
            rounds &+= 1
        }
    } else {
        return -ENOENT
    }
    return 0
}

private func same(_ bytes: UnsafeRawPointer, _ guid: san_guid) -> Bool {
    var guid = guid
    return memcmp(bytes, &guid, MemoryLayout<san_guid>.size) == 0
}

private let seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL

private func expose(
    _ socket: san_socket, _ length: Int, _ address: UnsafeMutablePointer<UnsafeMutableRawPointer?>?,
    _ descriptor: UnsafeMutableRawPointer?, _ descriptorLength: UnsafeMutablePointer<Int>?
) -> CInt {
    let fd = sys_memfd_create("sanswitch-ring", UInt32(MFD_CLOEXEC | MFD_ALLOW_SEALING))
    guard fd >= 0 else { return CInt(fd) }
    guard sys_ftruncate(CInt(fd), length) == 0, sys_fcntl(CInt(fd), F_ADD_SEALS, Int(seals)) == 0,
        let mapped = sys_map(length, CInt(fd), MAP_SHARED)
    else {
        _ = sys_close(CInt(fd))
        return -ENOMEM
    }
    // Sent, and closed here, by the same call of the switch's: no place of its own.
    release(companion(socket).pointee.memory)
    companion(socket).pointee.memory = CInt(fd)
    address?.pointee = mapped
    if let descriptor, let descriptorLength, descriptorLength.pointee >= 8 {
        descriptor.storeBytes(of: UInt64(length).littleEndian, as: UInt64.self)
        descriptorLength.pointee = 8
    }
    return 0
}

/// Maps what came with the last message. A peer that could still shrink it could kill this process with SIGBUS: refused.
private func map(
    _ socket: san_socket, _ descriptor: UnsafeRawPointer?, _ descriptorLength: Int, _ length: Int,
    _ address: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> CInt {
    let handle = companion(socket)
    let fd = handle.pointee.memory
    guard fd >= 0, descriptorLength == 8 else { return -EINVAL }
    defer {
        release(fd)
        handle.pointee.memory = -1
    }
    var status = stat()
    let sealed = sys_fcntl(fd, F_GET_SEALS, 0)
    guard sealed >= 0, CInt(truncatingIfNeeded: sealed) & (F_SEAL_SHRINK | F_SEAL_WRITE) == F_SEAL_SHRINK,
        fstat(fd, &status) == 0, Int(status.st_size) >= length
    else { return -EPERM }
    guard let mapped = sys_map(length, fd, MAP_SHARED) else { return -ENOMEM }
    address?.pointee = mapped
    return 0
}

private func ringDoorbell(_ socket: san_socket) -> CInt {
    var byte: UInt8 = 1
    let result = using(socket) { sys_send($0, &byte, 1, CInt(MSG_DONTWAIT | MSG_NOSIGNAL)) }
    // A full socket buffer is as good as a doorbell rung.
    return result >= 0 || result == -Int(EAGAIN) ? 0 : -EPIPE
}

/// Blocks as recv(2) on the connection would: interrupted or restarted by a signal as the kernel decides (SA_RESTART).
private func waitDoorbell(_ socket: san_socket) -> CInt {
    var byte: UInt8 = 0
    let fd = companion(socket).pointee.fd.load(ordering: .sequentiallyConsistent)
    return CInt(truncatingIfNeeded: min(0, sys_recv(fd, &byte, 1, CInt(MSG_PEEK))))
}

/// All of them: one that is left at each silence would fill the socket in the end, and a doorbell that finds it full is no event to an
/// edge-triggered set.
private func silenceDoorbell(_ socket: san_socket) -> CInt {
    var bytes: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0, 0, 0)
    var found: CInt = 0
    while true {
        let (result, isAll) = withUnsafeMutableBytes(of: &bytes) { bytes in
            let result = using(socket) { sys_recv($0, bytes.baseAddress!, bytes.count, CInt(MSG_DONTWAIT)) }
            return (result, result < bytes.count)
        }
        if result > 0 { found = 1 }
        if result == -Int(EINTR) { continue }
        if isAll { return result > 0 || result == -Int(EAGAIN) ? found : -EPIPE }
    }
}
