import CLibc
import CProvider
import Glibc
import Libc
import Registry
import Wire

/// A listening companion and a connected pair of one provider, all in this process.
struct CompanionPair {
    private let tables: ProviderTables
    private let address: SocketAddress
    private var listener: san_socket = 0
    private var client: san_socket = 0
    private var server: san_socket = 0
    private var isPushed: Bool { tables.direct.push != nil }

    init(_ tables: ProviderTables, _ host: SocketAddress) {
        self.tables = tables
        var address = host
        address.port = freePort()
        self.address = address
    }

    /// Waits until a connect that is under way has ended.
    static func result(_ tables: ProviderTables, _ socket: san_socket, seconds: UInt64) -> CInt {
        let end = libc_nanoseconds() + seconds * 1_000_000_000
        while true {
            let result = tables.functions.ioctl(socket, UInt32(SAN_IOCTL_CONNECT_RESULT), nil, 0, nil, 0)
            if result != -EINPROGRESS || libc_nanoseconds() > end { return result }
            usleep(1000)
        }
    }

    /// Takes every doorbell; what the last call answered.
    @discardableResult
    private func silence(_ socket: san_socket) -> CInt {
        for _ in 0..<5000 {
            let result = tables.direct.silence_doorbell(socket)
            if result != 1 { return result }
        }
        return 1
    }

    private func open() -> san_socket {
        var tcp = ProviderTables.tcp
        var socket: san_socket = 0
        return tables.functions.socket(&tcp, &socket) == 0 ? socket : 0
    }

    private func bind(_ socket: san_socket) -> CInt {
        address.withSocketAddress { tables.functions.bind(socket, $0.assumingMemoryBound(to: sockaddr.self), $1) }
    }

    private func connect(_ socket: san_socket) -> CInt {
        address.withSocketAddress { tables.functions.connect(socket, $0.assumingMemoryBound(to: sockaddr.self), $1) }
    }

    /// Whether a companion's event descriptor becomes readable in time.
    private func isReadable(_ socket: san_socket, _ milliseconds: CInt = 2000) -> Bool {
        var entry = pollfd(fd: tables.functions.event_descriptor(socket), events: CShort(POLLIN), revents: 0)
        return sys_poll(&entry, 1, milliseconds) > 0
    }

    // MARK: Setting up

    mutating func checkListening(_ report: inout ConformanceReport) -> Bool {
        listener = open()
        guard listener != 0 else {
            report.row("M12", "companions are made", "socket failed")
            return false
        }
        let result = bind(listener) == 0 ? tables.functions.listen(listener, 16) : -EINVAL
        report.row("M17", "it listens at a TCP socket's address", result == 0 ? nil : answer(result))
        let fd = tables.functions.event_descriptor(listener)
        report.row(
            "M10", "its descriptors are out of the program's way",
            ConformanceUpcalls.placed.contains(fd) ? nil : "descriptor \(fd) was not placed")
        var nobody: san_socket = 0
        let accepted = tables.functions.accept(listener, &nobody)
        report.row("M6", "accepting does not block", accepted == -EAGAIN ? nil : answer(accepted))
        let second = open()
        guard second != 0 else { return false }
        let taken = bind(second) == 0 ? tables.functions.listen(second, 16) : -EADDRINUSE
        report.row("M17", "one address has one listener", taken < 0 ? nil : "a second one may listen there")
        _ = tables.functions.close(second)
        return true
    }

    mutating func connect(_ report: inout ConformanceReport) -> Bool {
        client = open()
        guard client != 0 else { return false }
        var result = connect(client)
        let isSeen = isReadable(listener)
        report.row("M6", "a visitor makes the listener readable", isSeen ? nil : "it does not within 2 s")
        let end = libc_nanoseconds() + 5_000_000_000
        var accepted = -EAGAIN
        while accepted == -EAGAIN, libc_nanoseconds() < end {
            accepted = tables.functions.accept(listener, &server)
            if accepted == -EAGAIN { usleep(1000) }
        }
        if result == -EINPROGRESS { result = Self.result(tables, client, seconds: 5) }
        report.row(
            "M17", "two companions connect",
            result == 0 && accepted == 0 ? nil : "connect \(answer(result)), accept \(answer(accepted))")
        guard result == 0, accepted == 0 else { return false }
        for socket in [client, server] {
            var peer = san_peer(pid: 0, uid: uid_t.max)
            let told = tables.functions.peer(socket, &peer)
            let isRight = told == -EOPNOTSUPP || told == 0 && peer.uid == getuid()
            report.row(
                "M10", "it says who the peer is, or that it may be remote",
                isRight ? nil : "\(answer(told)), user \(peer.uid)")
        }
        return true
    }

    // MARK: Messages

    private func receive(_ socket: san_socket) -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: Message.size)
        let end = libc_nanoseconds() + 2_000_000_000
        while libc_nanoseconds() < end {
            let count = tables.functions.recv(socket, &buffer, buffer.count)
            if count != -Int(EAGAIN) { return count >= 0 ? Array(buffer[..<min(count, buffer.count)]) : nil }
            usleep(1000)
        }
        return nil
    }

    mutating func checkMessages(_ report: inout ConformanceReport) {
        var buffer = [UInt8](repeating: 0, count: Message.size)
        let none = tables.functions.recv(server, &buffer, buffer.count)
        report.row(
            "M20", "receiving does not block", none == -Int(EAGAIN) ? nil : answer(CInt(truncatingIfNeeded: none)))
        for (from, to, way) in [(client, server, "to the server"), (server, client, "to the client")] {
            let message = (0..<Message.size).map { UInt8(truncatingIfNeeded: $0 * 7 + 1) }
            let sent = tables.functions.send(from, message, message.count)
            let isWhole = sent == message.count && receive(to) == message
            report.row("M18", "a message arrives whole, \(way)", isWhole ? nil : answer(CInt(truncatingIfNeeded: sent)))
        }
    }

    // MARK: Memory

    private static let length = Limits.exposed(4096)

    mutating func checkMemory(_ report: inout ConformanceReport) {
        var nothing: UnsafeMutableRawPointer?
        var empty: UInt64 = 0
        let unannounced = tables.direct.map(server, &empty, 8, Self.length, &nothing)
        report.row("M18", "memory that no message announced is refused", unannounced < 0 ? nil : answer(unannounced))
        for (from, to, way) in [(client, server, "the client's"), (server, client, "the server's")] {
            report.row("M18", "\(way) memory reaches the peer", shareMemory(from, to))
        }
    }

    /// Exposes at `from`, tells `to`, which maps and writes; what was seen instead of that, or nil.
    private func shareMemory(_ from: san_socket, _ to: san_socket) -> String? {
        var mine: UnsafeMutableRawPointer?
        var theirs: UnsafeMutableRawPointer?
        var descriptor = [UInt8](repeating: 0, count: Int(SAN_DESCRIPTOR_LIMIT))
        var used = descriptor.count
        let exposed = tables.direct.expose(from, Self.length, &mine, &descriptor, &used)
        guard exposed == 0, let mine, used <= descriptor.count else { return "expose \(answer(exposed))" }
        defer { _ = tables.direct.unmap(mine, Self.length) }
        let isZero = UnsafeRawBufferPointer(start: mine, count: Self.length).allSatisfy { $0 == 0 }
        guard isZero else { return "exposed memory is not zero" }
        let message = [UInt8](repeating: 1, count: Message.size)
        guard tables.functions.send(from, message, message.count) == message.count, receive(to) != nil else {
            return "the message did not arrive"
        }
        let mapped = tables.direct.map(to, descriptor, used, Self.length, &theirs)
        guard mapped == 0, let theirs else { return "map \(answer(mapped))" }
        defer { _ = tables.direct.unmap(theirs, Self.length) }
        for offset in [0, 100, Self.length - 8] {
            theirs.storeBytes(of: UInt64(0xfeed_0000) + UInt64(offset), toByteOffset: offset, as: UInt64.self)
            if isPushed, tables.direct.push(to, offset, 8) != 0 { return "push failed" }
        }
        let end = libc_nanoseconds() + 2_000_000_000
        while libc_nanoseconds() < end {
            let isThere = [0, 100, Self.length - 8].allSatisfy {
                mine.loadUnaligned(fromByteOffset: $0, as: UInt64.self) == UInt64(0xfeed_0000) + UInt64($0)
            }
            if isThere { return nil }
            usleep(1000)
        }
        return "what the peer wrote is not there"
    }

    // MARK: Doorbells

    mutating func checkDoorbell(_ report: inout ConformanceReport) {
        if isPushed { _ = (tables.direct.silence_doorbell(client), tables.direct.silence_doorbell(server)) }
        let before = tables.direct.silence_doorbell(server)
        let rung = tables.direct.ring_doorbell(client)
        let isHeard = isReadable(server)
        report.row(
            "M20", "a doorbell makes the peer's event descriptor readable",
            before == 0 && rung == 0 && isHeard
                ? nil : "before it \(answer(before)), ringing \(answer(rung)), readable: \(isHeard)")
        for _ in 0..<1000 { _ = tables.direct.ring_doorbell(client) }
        _ = isReadable(server)
        let first = tables.direct.silence_doorbell(server)
        let taken = silence(server)
        report.row(
            "M20", "silencing takes them, and says so",
            first == 1 && taken == 0 && !isReadable(server, 0) ? nil : "\(answer(first)), in the end \(answer(taken))")
    }

    mutating func checkWaiting(_ report: inout ConformanceReport) {
        let direct = tables.direct
        let (client, server) = (client, server)
        Later.run(50) { _ = direct.ring_doorbell(client) }
        let woken = direct.wait_doorbell(server)
        report.row("M20", "a doorbell ends a wait", woken == 0 ? nil : answer(woken))
        silence(server)
        Later.run(600) { _ = direct.ring_doorbell(client) }
        Later.interruptMainThread(50)
        let interrupted = direct.wait_doorbell(server)
        report.row("M21", "a signal cuts a wait short with EINTR", interrupted == -EINTR ? nil : answer(interrupted))
        usleep(700_000)
        silence(server)
    }

    // MARK: Duplication and the end

    mutating func checkDuplication(_ report: inout ConformanceReport) {
        let channel = open()
        var far: san_socket = 0
        defer { for socket in [channel, far] where socket != 0 { _ = tables.functions.close(socket) } }
        guard channel != 0 else { return }
        var result = connect(channel)
        if result == -EINPROGRESS { result = Self.result(tables, channel, seconds: 5) }
        guard result == 0, isReadable(listener), tables.functions.accept(listener, &far) == 0 else {
            return report.row("M12", "a second companion connects", answer(result))
        }
        // With memory that the client has exposed and the server has not mapped yet.
        var mine: UnsafeMutableRawPointer?
        var theirs: UnsafeMutableRawPointer?
        var descriptor = [UInt8](repeating: 0, count: Int(SAN_DESCRIPTOR_LIMIT))
        var used = descriptor.count
        let message = [UInt8](repeating: 9, count: Message.size)
        guard tables.direct.expose(client, Self.length, &mine, &descriptor, &used) == 0, let mine,
            tables.functions.send(client, message, message.count) == message.count, receive(server) == message
        else { return report.row("M12", "memory for the other process is exposed", "it is not") }
        defer { _ = tables.direct.unmap(mine, Self.length) }
        let handed = tables.functions.duplicate(server, far, message, message.count)
        if handed == -EOPNOTSUPP { return report.absent("M12", "a companion cannot be handed to another process") }
        var adopted: san_socket = 0
        let taken = receive(channel) == message ? tables.functions.adopt(channel, &adopted) : -EPROTO
        guard handed == 0, taken == 0 else {
            return report.row("M12", "a companion is handed over a channel", "\(answer(handed)), then \(answer(taken))")
        }
        _ = tables.functions.close(server)
        server = adopted
        let mapped = tables.direct.map(server, descriptor, used, Self.length, &theirs)
        if mapped == 0, let theirs { _ = tables.direct.unmap(theirs, Self.length) }
        let isAlive = mapped == 0 && tables.direct.ring_doorbell(client) == 0 && isReadable(server)
        silence(server)
        report.row("M12", "a companion is handed over a channel", isAlive ? nil : "afterwards map \(answer(mapped))")
    }

    mutating func checkEnd(_ report: inout ConformanceReport) {
        let direct = tables.direct
        let (client, server) = (client, server)
        Later.run(50) { _ = direct.interrupt(server) }
        Later.run(2000) { _ = direct.ring_doorbell(client) }
        let begin = libc_nanoseconds()
        _ = direct.wait_doorbell(server)
        _ = direct.wait_doorbell(server)
        let took = Int((libc_nanoseconds() - begin) / 1_000_000)
        report.row("M19", "interrupt ends every wait, now and later", took < 1500 ? nil : "it took \(took) ms")
        let closed = tables.functions.close(server)
        self.server = 0
        let isSeen = isReadable(client)
        var silenced = direct.silence_doorbell(client)
        let end = libc_nanoseconds() + 2_000_000_000
        while silenced >= 0, libc_nanoseconds() < end { silenced = direct.silence_doorbell(client) }
        report.row(
            "M21", "an abrupt close is seen by the peer",
            closed == 0 && isSeen && silenced == -EPIPE ? nil : "readable: \(isSeen), \(answer(silenced))")
        let rung = direct.ring_doorbell(client)
        report.row(
            "M22", "a doorbell to nobody answers EPIPE, and close still works", rung == -EPIPE ? nil : answer(rung))
        usleep(2_000_000 - UInt32(min(1_900_000, (libc_nanoseconds() - begin) / 1000)))
    }

    mutating func close() {
        for socket in [client, server, listener] where socket != 0 { _ = tables.functions.close(socket) }
    }
}

/// Things that another thread does after a while.
enum Later {
    private final class Step {
        let milliseconds: UInt32
        let body: () -> Void
        init(_ milliseconds: UInt32, _ body: @escaping () -> Void) {
            (self.milliseconds, self.body) = (milliseconds, body)
        }
    }

    static func run(_ milliseconds: UInt32, _ body: @escaping () -> Void) {
        let step = Unmanaged.passRetained(Step(milliseconds, body)).toOpaque()
        _ = libc_start_thread(
            { argument in
                guard let argument else { return nil }
                let step = Unmanaged<Step>.fromOpaque(argument).takeRetainedValue()
                usleep(step.milliseconds * 1000)
                step.body()
                return nil
            }, step)
    }

    /// A signal without SA_RESTART to this thread, the only one that does not block it.
    static func interruptMainThread(_ milliseconds: Int) {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in }
        sigaction(SIGALRM, &action, nil)
        var timer = itimerval(it_interval: timeval(), it_value: timeval(tv_sec: 0, tv_usec: milliseconds * 1000))
        setitimer(ITIMER_REAL, &timer, nil)
    }
}
