import CLibc
import CVerbs
import Libc
import Synchronization
import Wire

/// The private data of a connection request: which TCP connection it belongs to. 44 of the 56 bytes that there are; padding may
/// follow. Little-endian, addresses in network order.
///
///     0  magic    4  version    5  nothing    8  client's port    10  server's port    12  client's address    28  server's address
enum PrivateData {
    static let length = 44
    private static let magic: UInt32 = 0x5357_5302
    private static let version: UInt8 = 1

    static func encode(_ tuple: ConnectionTuple, _ bytes: UnsafeMutableRawBufferPointer) {
        memset(bytes.baseAddress!, 0, length)
        bytes.storeBytes(of: magic.littleEndian, as: UInt32.self)
        bytes[4] = version
        bytes.storeBytes(of: tuple.local.port.littleEndian, toByteOffset: 8, as: UInt16.self)
        bytes.storeBytes(of: tuple.peer.port.littleEndian, toByteOffset: 10, as: UInt16.self)
        bytes.storeBytes(of: tuple.local.high, toByteOffset: 12, as: UInt64.self)
        bytes.storeBytes(of: tuple.local.low, toByteOffset: 20, as: UInt64.self)
        bytes.storeBytes(of: tuple.peer.high, toByteOffset: 28, as: UInt64.self)
        bytes.storeBytes(of: tuple.peer.low, toByteOffset: 36, as: UInt64.self)
    }

    static func tuple(_ bytes: UnsafeRawBufferPointer, _ count: Int) -> ConnectionTuple? {
        guard count >= length, UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self)) == magic, bytes[4] == version
        else { return nil }
        func word(_ offset: Int) -> UInt64 { bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self) }
        func port(_ offset: Int) -> UInt16 {
            UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
        }
        return ConnectionTuple(
            local: SocketAddress(high: word(12), low: word(20), port: port(8)),
            peer: SocketAddress(high: word(28), low: word(36), port: port(10)))
    }
}

/// What goes before each message on the wire: the memory that its sender exposes on this connection.
///
///     0  magic    4  length of the message    8  address    16  bytes    24  key    28  nothing
enum Head {
    static let length = 32
    static let magic: UInt32 = 0x5357_5303
    /// The longest message that fits a receive with its head.
    static let capacity = Control.slot - length
}

/// Messages and notifications. `send` and `recv` are the program's; the rest is the worker's.
extension UnsafeMutablePointer where Pointee == Link {
    /// Keeps the message; the worker sends it when the connection stands.
    func send(_ message: UnsafeRawPointer, _ length: Int) -> Int {
        guard length > 0, length <= Head.capacity else { return -Int(EMSGSIZE) }
        guard pointee.outgoingLength.load(ordering: .acquiring) == 0 else { return -Int(EAGAIN) }
        guard pointee.phase.load(ordering: .acquiring) != Link.Phase.ended else { return -Int(EPIPE) }
        guard let tuple = Message(UnsafeRawBufferPointer(start: message, count: length))?.tuple else {
            return -Int(EINVAL)
        }
        if pointee.isServer, pointee.tuple != tuple { return -Int(EINVAL) }
        pointee.tuple = tuple
        withUnsafeMutableBytes(of: &pointee.outgoing) { $0.baseAddress!.copyMemory(from: message, byteCount: length) }
        pointee.outgoingLength.store(length, ordering: .releasing)
        Worker.queue(self)
        return length
    }

    /// The message that has come; or -EAGAIN, 0 for a peer that has gone, why the connection failed.
    func receive(_ buffer: UnsafeMutableRawPointer, _ capacity: Int) -> Int {
        let length = pointee.incomingLength.load(ordering: .acquiring)
        if length > 0 {
            guard capacity >= length else { return -Int(EMSGSIZE) }
            withUnsafeBytes(of: &pointee.incoming) { buffer.copyMemory(from: $0.baseAddress!, byteCount: length) }
            pointee.incomingLength.store(0, ordering: .releasing)
            _ = silence()
            return length
        }
        guard pointee.phase.load(ordering: .acquiring) == Link.Phase.ended else { return -Int(EAGAIN) }
        // A message may have come just before the end.
        if pointee.incomingLength.load(ordering: .acquiring) > 0 { return receive(buffer, capacity) }
        return 0 &- Int(pointee.failure.load(ordering: .relaxed))
    }

    /// Sends the message that the program has left, with the memory that it has exposed.
    func sendMessage() {
        let length = pointee.outgoingLength.load(ordering: .acquiring)
        guard length > 0, let control = pointee.control.address else { return }
        if pointee.exposed.address != nil, pointee.exposed.region.handle == nil {
            let made = verbs_register(
                &pointee.queues, pointee.exposed.address, pointee.exposed.length, true, &pointee.exposed.region)
            if made != 0 { return end(0 &- made) }
        }
        let head = UnsafeMutableRawBufferPointer(start: control + Control.outgoing, count: Control.slot)
        head.storeBytes(of: Head.magic.littleEndian, as: UInt32.self)
        head.storeBytes(of: UInt32(length).littleEndian, toByteOffset: 4, as: UInt32.self)
        head.storeBytes(of: pointee.exposed.word.littleEndian, toByteOffset: 8, as: UInt64.self)
        head.storeBytes(of: UInt64(pointee.exposed.length).littleEndian, toByteOffset: 16, as: UInt64.self)
        head.storeBytes(of: UInt64(pointee.exposed.region.remote_key).littleEndian, toByteOffset: 24, as: UInt64.self)
        withUnsafeBytes(of: &pointee.outgoing) {
            (control + Control.outgoing + Head.length).copyMemory(from: $0.baseAddress!, byteCount: length)
        }
        pointee.lock.lock()
        var request = verbs_request()
        request.kind = UInt32(VERBS_SEND)
        request.local = pointee.control.word &+ UInt64(Control.outgoing)
        request.length = UInt32(truncatingIfNeeded: length &+ Head.length)
        request.local_key = pointee.control.region.local_key
        submit(&request, 1, false)
        pointee.lock.unlock()
        pointee.outgoingLength.store(0, ordering: .releasing)
    }

    // MARK: Completions

    /// The send queue's completions were waited for.
    func takeSent() {
        pointee.lock.lock()
        pointee.flow.isSendArmed = false
        if pointee.phase.load(ordering: .relaxed) == Link.Phase.established { flush() } else { reap() }
        let isDone = pointee.isClosing && (pointee.flow.isIdle || pointee.flow.isBroken)
        pointee.lock.unlock()
        if isDone { finish() }
    }

    /// Takes what has been received, and arms the queue for what comes next.
    func takeReceived() {
        guard pointee.queues.pair != nil else { return }
        var signals: UInt32 = 0
        var isArmed = false
        withUnsafeTemporaryAllocation(of: verbs_completion.self, capacity: 16) { done in
            while true {
                let count = verbs_poll(pointee.queues.receive_completions, done.baseAddress, 16)
                for i in 0..<max(0, Int(count)) { signals |= take(done[i]) }
                if count > 0 { continue }
                if isArmed || count < 0 { break }
                isArmed = verbs_arm(pointee.queues.receive_completions) == 0
                if !isArmed { break }
            }
        }
        if signals & Self.fault != 0 { return end(EPROTO) }
        if signals & Flow.grant != 0 {
            pointee.lock.lock()
            pointee.flow.isGranted = true
            if pointee.phase.load(ordering: .relaxed) == Link.Phase.established { flush() }
            pointee.lock.unlock()
        }
        if signals & Flow.bell != 0 {
            pointee.hasNotification.store(1, ordering: .sequentiallyConsistent)
            ring()
        }
        if signals & Flow.end != 0, pointee.far >= 0 { _ = sys_shutdown(pointee.far, CInt(SHUT_WR)) }
    }

    /// One receive: its bits if it is a notification. Its place is posted again.
    private func take(_ done: verbs_completion) -> UInt32 {
        guard done.failed == 0, done.id < UInt64(Flow.receives) else { return 0 }
        // What the client sends may be here before the news that it is connected.
        if pointee.isServer { establish() }
        let isNews = done.is_notification == 0
        let isFault = isNews && !takeMessage(Int(truncatingIfNeeded: done.id), Int(done.length))
        _ = postReceive(done.id)
        return isNews
            ? (isFault ? Self.fault : 0) : UInt32(bigEndian: done.immediate) & (Flow.bell | Flow.grant | Flow.end)
    }

    private static var fault: UInt32 { 1 << 31 }

    /// A message has come. The peer is not trusted: false when anything is wrong with it, which ends the link.
    private func takeMessage(_ slot: Int, _ count: Int) -> Bool {
        guard let control = pointee.control.address else { return false }
        let bytes = UnsafeRawBufferPointer(
            start: control + (Control.incoming &+ slot &* Control.slot), count: min(count, Control.slot))
        guard bytes.count > Head.length, UInt32(littleEndian: bytes.load(as: UInt32.self)) == Head.magic,
            Int(UInt32(littleEndian: bytes.load(fromByteOffset: 4, as: UInt32.self))) == bytes.count &- Head.length,
            pointee.incomingLength.load(ordering: .acquiring) == 0,
            let message = Message(UnsafeRawBufferPointer(rebasing: bytes[Head.length...])),
            message.tuple == pointee.tuple
        else { return false }
        let length = bytes.count &- Head.length
        withUnsafeMutableBytes(of: &pointee.incoming) {
            $0.baseAddress!.copyMemory(from: bytes.baseAddress! + Head.length, byteCount: length)
        }
        pointee.lock.lock()
        pointee.remote = RemoteArea(
            address: UInt64(littleEndian: bytes.load(fromByteOffset: 8, as: UInt64.self)),
            length: UInt64(littleEndian: bytes.load(fromByteOffset: 16, as: UInt64.self)) & UInt64(UInt32.max),
            key: UInt32(truncatingIfNeeded: UInt64(littleEndian: bytes.load(fromByteOffset: 24, as: UInt64.self))))
        pointee.lock.unlock()
        pointee.incomingLength.store(length, ordering: .releasing)
        ring()
        return true
    }
}
