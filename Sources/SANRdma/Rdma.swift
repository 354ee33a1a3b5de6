import CLibc
import CProvider
import CVerbs
import Libc
import Synchronization
import Wire

/// The provider for other hosts: RDMA by libibverbs and librdmacm. A companion is a reliable connected queue pair; `push` brings
/// bytes of this end's copy into the peer's exposed memory by RDMA writes, docs/rdma.md.
enum Rdma {
    nonisolated(unsafe) static var upcalls = san_upcalls()
    /// This process is a fork's child of the one that uses the queues: it stays away from them.
    nonisolated(unsafe) static var isForeign = false
    nonisolated(unsafe) private static var isReady = false

    static func prepare() {
        if isReady { return }
        isReady = true
        _ = libc_on_fork(
            nil, nil,
            {
                Rdma.isForeign = true
                Worker.forgetInChild()
            })
    }
}

/// Moves a descriptor out of the program's way; its new number or -errno.
func place(_ fd: CInt) -> CInt { Rdma.upcalls.place_descriptor?(fd) ?? fd }

func release(_ fd: CInt) {
    guard fd >= 0 else { return }
    Rdma.upcalls.release_descriptor?(fd)
    _ = sys_close(fd)
}

@inline(__always)
private func link(_ socket: san_socket) -> LinkRef { LinkRef(bitPattern: UInt(socket)).unsafelyUnwrapped }

/// How the provider is registered without a file of its own.
public enum RdmaIdentity {
    public static let order = 60
    public static var name: UnsafePointer<CChar> {
        let text: StaticString = "rdma"
        return UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self)
    }
    public static var guid: san_guid {
        san_guid(a: 0x5a4e_5357, b: 2, c: 0x4d45, d: (0x8d, 0x4f, 0x52, 0x59, 0, 0, 0, 2))
    }
    /// A number that changes with the addresses of this host's devices; 0 when there are none.
    public static var stamp: UInt64 { Addresses.stamp }
    /// The addresses themselves, as SAN_IOCTL_ADDRESS_LIST answers.
    public static func addresses(_ out: UnsafeMutableRawPointer?, _ length: Int) -> CInt { Addresses.list(out, length) }
}

/// `san_startup_ex` of this provider.
public func rdmaStartup(
    version: UInt32, tcp: UnsafePointer<san_protocol>, upcalls given: UnsafePointer<san_upcalls>,
    functions: UnsafeMutablePointer<san_functions>, info: UnsafeMutablePointer<san_provider_info>
) -> CInt {
    guard version == SAN_ABI_VERSION else { return -ENOTSUP }
    guard tcp.pointee.type == CInt(SOCK_STREAM.rawValue) else { return -EINVAL }
    Rdma.upcalls = given.pointee
    functions.pointee = san_functions(
        size: UInt64(MemoryLayout<san_functions>.size), cleanup: { Closing.wait() }, socket: rdmaSocket, bind: rdmaBind,
        set_option: { _, _, _, _, _ in 0 }, listen: rdmaListen, connect: rdmaConnect, accept: rdmaAccept,
        event_descriptor: { link($0).pointee.near }, peer: { _, _ in -EOPNOTSUPP },
        send: { socket, bytes, length in
            guard let bytes, !Rdma.isForeign else { return -Int(EPIPE) }
            return link(socket).send(bytes, length)
        },
        recv: { socket, buffer, capacity in
            guard let buffer, !Rdma.isForeign else { return 0 }
            return link(socket).receive(buffer, capacity)
        }, ioctl: rdmaControl, duplicate: { _, _, _, _ in -EOPNOTSUPP }, adopt: { _, _ in -EOPNOTSUPP },
        close: rdmaClose)
    info.pointee = san_provider_info()
    withUnsafeMutableBytes(of: &info.pointee.name) { _ = memcpy($0.baseAddress!, RdmaIdentity.name, 4) }
    info.pointee.guid = RdmaIdentity.guid
    info.pointee.maximum_ring = UInt32(Limits.maximumRing)
    return 0
}

private func rdmaSocket(_: UnsafePointer<san_protocol>?, _ out: UnsafeMutablePointer<san_socket>?) -> CInt {
    if Rdma.isForeign { return -EOPNOTSUPP }
    Rdma.prepare()
    var made: LinkRef?
    let result = LinkPool.take(&made)
    if let made { out?.pointee = san_socket(UInt(bitPattern: made)) }
    return result
}

private func rdmaBind(_ socket: san_socket, _ address: UnsafePointer<sockaddr>?, _ length: socklen_t) -> CInt {
    guard let address, let bound = SocketAddress(UnsafeRawPointer(address), length: Int(length)) else { return -EINVAL }
    link(socket).pointee.address = bound
    return 0
}

/// Listens as soon as the worker comes to it. Without a device or a free port nobody ever arrives, which is all there is to see.
private func rdmaListen(_ socket: san_socket, _: CInt) -> CInt {
    guard link(socket).pointee.address != nil else { return -EINVAL }
    guard !Addresses.isEmpty else { return -ENODEV }
    guard Worker.start() else { return -ENOMEM }
    link(socket).pointee.phase.store(Link.Phase.listening, ordering: .relaxed)
    link(socket).pointee.wantsListen.store(1, ordering: .releasing)
    Worker.queue(link(socket))
    return 0
}

/// Goes on by itself, once the first message says which TCP connection it is.
private func rdmaConnect(_ socket: san_socket, _ address: UnsafePointer<sockaddr>?, _ length: socklen_t) -> CInt {
    guard let address, let server = SocketAddress(UnsafeRawPointer(address), length: Int(length)) else {
        return -EINVAL
    }
    guard !Addresses.isEmpty else { return -ENODEV }
    guard Worker.start() else { return -ENOMEM }
    link(socket).pointee.address = server
    link(socket).pointee.phase.store(Link.Phase.connecting, ordering: .releasing)
    return 0
}

private func rdmaAccept(_ listener: san_socket, _ out: UnsafeMutablePointer<san_socket>?) -> CInt {
    let listener = link(listener)
    if Rdma.isForeign { return -EAGAIN }
    while true {
        let head = listener.pointee.arrived.load(ordering: .acquiring)
        guard let first = LinkRef(bitPattern: head) else {
            // Silenced first, then looked again: the worker rings after it has added one.
            if listener.silence() <= 0 || listener.pointee.arrived.load(ordering: .acquiring) == 0 { return -EAGAIN }
            continue
        }
        let next = UInt(bitPattern: first.pointee.nextArrived)
        if listener.pointee.arrived.compareExchange(expected: head, desired: next, ordering: .acquiringAndReleasing)
            .exchanged
        {
            out?.pointee = san_socket(UInt(bitPattern: first))
            return 0
        }
    }
}

private func rdmaClose(_ socket: san_socket) -> CInt {
    let link = link(socket)
    release(link.pointee.near)
    link.pointee.near = -1
    if Rdma.isForeign { return 0 }
    link.pointee.wantsClose.store(1, ordering: .releasing)
    if Worker.isStarted { Worker.queue(link) } else { link.finish() }
    return 0
}

private func rdmaControl(
    _ socket: san_socket, _ code: UInt32, _ input: UnsafeRawPointer?, _ inputLength: Int,
    _ output: UnsafeMutableRawPointer?, _ outputLength: Int
) -> CInt {
    if code == UInt32(SAN_IOCTL_RENUMBER), let input, inputLength == MemoryLayout<san_renumber>.size {
        return renumber(link(socket), input.load(as: san_renumber.self))
    }
    // Told by `recv`.
    if code == UInt32(SAN_IOCTL_CONNECT_RESULT) { return 0 }
    if code == UInt32(SAN_IOCTL_ADDRESS_LIST) { return Addresses.list(output, outputLength) }
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
            size: UInt64(MemoryLayout<san_direct_memory>.size), expose: rdmaExpose, map: rdmaMap,
            // Both stay until `close`: what was pushed may still leave.
            unmap: { _, _ in 0 },
            ring_doorbell: { _ in 0 }, wait_doorbell: { link($0).wait() },
            interrupt: { CInt(sys_shutdown(link($0).pointee.near, CInt(SHUT_RD))) },
            silence_doorbell: { link($0).silence() }, finish: { link($0).finishRinging() },
            push: { $2 == 0 ? link($0).prepareToSleep() : link($0).push($1, $2) }), as: san_direct_memory.self)
    return 0
}

/// The two ends of the doorbell, or what all links share.
private func renumber(_ link: LinkRef, _ change: san_renumber) -> CInt {
    if link.pointee.near == change.from {
        link.pointee.near = change.to
    } else if link.pointee.far == change.from {
        link.pointee.far = change.to
    } else if !Worker.renumber(change.from, change.to) {
        return -ENOENT
    }
    return 0
}

private func same(_ bytes: UnsafeRawPointer, _ guid: san_guid) -> Bool {
    var guid = guid
    return memcmp(bytes, &guid, MemoryLayout<san_guid>.size) == 0
}

/// Memory for the peer to write; registered when the message that tells of it leaves.
private func rdmaExpose(
    _ socket: san_socket, _ length: Int, _ address: UnsafeMutablePointer<UnsafeMutableRawPointer?>?,
    _ descriptor: UnsafeMutableRawPointer?, _ descriptorLength: UnsafeMutablePointer<Int>?
) -> CInt {
    let link = link(socket)
    guard length > 0, length <= Int(UInt32.max), let descriptor, let descriptorLength, descriptorLength.pointee >= 8
    else {
        return -EINVAL
    }
    guard link.pointee.exposed.address == nil, link.pointee.exposed.map(length) else { return -ENOMEM }
    address?.pointee = link.pointee.exposed.address
    descriptor.storeBytes(of: UInt64(length).littleEndian, as: UInt64.self)
    descriptorLength.pointee = 8
    return 0
}

/// This end's copy of what came with the last message.
private func rdmaMap(
    _ socket: san_socket, _ descriptor: UnsafeRawPointer?, _ descriptorLength: Int, _ length: Int,
    _ address: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> CInt {
    let link = link(socket)
    guard !Rdma.isForeign, link.pointee.phase.load(ordering: .acquiring) == Link.Phase.established else {
        return -EPIPE
    }
    guard descriptorLength == 8, length > 0, UInt64(length) <= link.pointee.remote.length else { return -EPERM }
    var copy = Area()
    guard link.pointee.copy.address == nil, copy.map(length) else { return -ENOMEM }
    libc_enter_provider()
    let made = verbs_register(&link.pointee.queues, copy.address, length, false, &copy.region)
    libc_leave_provider()
    guard made == 0 else {
        copy.release()
        return made
    }
    link.pointee.lock.lock()
    link.pointee.copy = copy
    link.pointee.lock.unlock()
    address?.pointee = copy.address
    return 0
}

/// What is left to do when the process ends.
enum Closing {
    private static let nanoseconds: UInt64 = 1_000_000_000

    /// Gives what has been pushed, on closed links and on others, a second to leave, as a kernel would send what is in its queues.
    static func wait() -> CInt {
        if Rdma.isForeign || !Worker.isStarted { return 0 }
        let end = libc_nanoseconds() &+ nanoseconds
        while isPending, libc_nanoseconds() < end {
            var pause = timespec(tv_sec: 0, tv_nsec: 200_000)
            _ = sys_ppoll(nil, 0, &pause, nil)
        }
        return 0
    }

    private static var isPending: Bool {
        var isPending = false
        LinkPool.forEach { link in
            if link.pointee.isDead { return }
            if link.pointee.wantsClose.load(ordering: .acquiring) != 0 { isPending = true }
            guard link.pointee.phase.load(ordering: .acquiring) == Link.Phase.established else { return }
            link.pointee.lock.lock()
            link.flush()
            if !link.pointee.flow.isIdle, !link.pointee.flow.isBroken { isPending = true }
            link.pointee.lock.unlock()
        }
        return isPending
    }
}
