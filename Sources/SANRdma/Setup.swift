import CLibc
import CProvider
import CVerbs
import Libc
import Synchronization
import Wire

/// How a link comes and goes; all of it on the worker. A client's way:
///
///     address -> route -> queues, receives posted -> connect, the tuple as private data -> established -> message
///
/// A server's: request, its addresses checked against its tuple -> queues, receives posted -> accept -> established. Each step has
/// a time limit, and whatever goes wrong ends the link: the program's side sees that at its next `recv` and stays on TCP.
extension UnsafeMutablePointer where Pointee == Link {
    static var stepMilliseconds: CInt { 1000 }
    /// For the whole way.
    static var setupNanoseconds: UInt64 { 3_000_000_000 }
    /// For what has been pushed when the program closes.
    static var lingerNanoseconds: UInt64 { 2_000_000_000 }

    private func limit(_ nanoseconds: UInt64) {
        pointee.deadline = libc_nanoseconds() &+ nanoseconds
        Worker.isTimed = true
    }

    /// The program, or a failed posting, has left word. `trouble`: why there are no verbs at all.
    func work(_ trouble: CInt) {
        if pointee.isDead { return LinkPool.give(self) }
        if pointee.wantsClose.load(ordering: .acquiring) != 0 { return close() }
        if pointee.flow.isBroken { return end(ECONNRESET) }
        let phase = pointee.phase.load(ordering: .acquiring)
        if phase == Link.Phase.ended { return }
        if trouble != 0 { return end(trouble) }
        if pointee.wantsListen.exchange(0, ordering: .acquiring) != 0 { return listen() }
        if phase == Link.Phase.established { return sendMessage() }
        if phase == Link.Phase.connecting, pointee.identifier == nil { connect() }
    }

    // MARK: Listening

    private func listen() {
        guard let address = pointee.address else { return end(EINVAL) }
        pointee.wasListening = true
        // A listener on every address would listen on iWARP devices as well, in TCP's own ports.
        if address.isWildcard, Addresses.hasIwarp { return end(ENOTSUP) }
        var made = verbs_identifier(self, &pointee.identifier)
        if made == 0 { made = address.withSocketAddress { address, _ in verbs_bind(pointee.identifier, address) } }
        guard made == 0 else { return end(0 &- made) }
        if let device = verbs_device(pointee.identifier), verbs_is_iwarp(device) { return end(ENOTSUP) }
        made = verbs_listen(pointee.identifier, 1024)
        if made != 0 { end(0 &- made) }
    }

    /// A connection request at this listener.
    func meet(_ event: inout verbs_event) {
        guard let identifier = event.identifier else { return }
        let link = admit(&event, identifier)
        if link == nil {
            verbs_reject(identifier)
            verbs_destroy(identifier)
        }
    }

    private func admit(_ event: inout verbs_event, _ identifier: UnsafeMutableRawPointer) -> LinkRef? {
        let length = Int(event.length)
        let tuple = withUnsafeBytes(of: &event.data) { PrivateData.tuple($0, length) }
        guard let tuple, pointee.wantsClose.load(ordering: .relaxed) == 0,
            let peer = address(verbs_peer_address(identifier)), let local = address(verbs_local_address(identifier)),
            peer.sameHost(as: tuple.local), local.sameHost(as: tuple.peer), local.port == tuple.peer.port,
            let device = verbs_device(identifier), !verbs_is_iwarp(device)
        else { return nil }
        var taken: LinkRef?
        guard LinkPool.take(&taken) == 0, let link = taken else { return nil }
        link.pointee.tuple = tuple
        link.pointee.isServer = true
        link.pointee.listener = self
        link.pointee.phase.store(Link.Phase.connecting, ordering: .relaxed)
        verbs_set_context(identifier, link)
        link.pointee.identifier = identifier
        link.limit(Self.setupNanoseconds)
        guard link.makeQueues() == 0, verbs_accept(identifier) == 0 else {
            link.pointee.identifier = nil
            link.discard(identifier)
            return nil
        }
        return link
    }

    private func address(_ raw: UnsafeRawPointer?) -> SocketAddress? {
        guard let raw else { return nil }
        return SocketAddress(raw, length: MemoryLayout<sockaddr_in6>.size)
    }

    // MARK: Connecting

    private func connect() {
        guard let server = pointee.address, let tuple = pointee.tuple else { return }
        limit(Self.setupNanoseconds)
        var made = verbs_identifier(self, &pointee.identifier)
        var source = tuple.local
        source.port = 0
        if made == 0 {
            made = source.withSocketAddress { from, _ in
                server.withSocketAddress { to, _ in
                    verbs_resolve(pointee.identifier, from, to, Self.stepMilliseconds)
                }
            }
        }
        if made != 0 { end(0 &- made) }
    }

    private func resolveRoute() {
        guard let device = verbs_device(pointee.identifier) else { return end(ENODEV) }
        if verbs_is_iwarp(device) { return end(ENOTSUP) }
        let made = verbs_resolve_route(pointee.identifier, Self.stepMilliseconds)
        if made != 0 { end(0 &- made) }
    }

    private func request() {
        guard let tuple = pointee.tuple else { return end(EINVAL) }
        var made = makeQueues()
        if made == 0 {
            made = withUnsafeTemporaryAllocation(byteCount: PrivateData.length, alignment: 8) { bytes in
                PrivateData.encode(tuple, bytes)
                return verbs_connect(pointee.identifier, bytes.baseAddress, bytes.count)
            }
        }
        if made != 0 { end(0 &- made) }
    }

    /// The queue pair, in a protection domain of its own, with its receives: before anything can arrive.
    private func makeQueues() -> CInt {
        guard let identifier = pointee.identifier, let device = verbs_device(identifier),
            let channel = Worker.channel(of: device)
        else { return -ENODEV }
        var made = verbs_make_queues(
            identifier, channel, self, Flow.depth, Flow.receives, UInt32(Flow.noteLength), &pointee.queues)
        guard made == 0 else { return made == -ENODEV ? made : -ENOBUFS }
        guard pointee.queues.inline_limit >= UInt64(Flow.noteLength), pointee.control.map(Control.length) else {
            return -ENOMEM
        }
        made = verbs_register(
            &pointee.queues, pointee.control.address, Control.length, false, &pointee.control.region)
        var slot: UInt64 = 0
        while made == 0, slot < UInt64(Flow.receives) {
            made = postReceive(slot)
            slot &+= 1
        }
        return made == 0 ? verbs_arm(pointee.queues.receive_completions) : made
    }

    func postReceive(_ slot: UInt64) -> CInt {
        verbs_post_receive(
            &pointee.queues, pointee.control.word &+ UInt64(Control.incoming) &+ slot &* UInt64(Control.slot),
            UInt32(Control.slot), pointee.control.region.local_key, slot)
    }

    // MARK: Events

    func hear(_ kind: UInt32) {
        switch kind {
        case UInt32(VERBS_ADDRESS_RESOLVED): resolveRoute()
        case UInt32(VERBS_ROUTE_RESOLVED): request()
        case UInt32(VERBS_ESTABLISHED): establish()
        case UInt32(VERBS_REFUSED): end(ECONNREFUSED)
        case UInt32(VERBS_UNREACHABLE): end(EHOSTUNREACH)
        case UInt32(VERBS_DISCONNECTED):
            // What arrived before the end is there.
            takeReceived()
            end(0)
        case UInt32(VERBS_DEVICE_REMOVED): end(ENODEV)
        default: break
        }
    }

    func establish() {
        guard pointee.phase.load(ordering: .relaxed) == Link.Phase.connecting else { return }
        pointee.deadline = 0
        pointee.phase.store(Link.Phase.established, ordering: .releasing)
        if let listener = pointee.listener {
            var head = listener.pointee.arrived.load(ordering: .relaxed)
            while true {
                pointee.nextArrived = LinkRef(bitPattern: head)
                let (done, seen) = listener.pointee.arrived.compareExchange(
                    expected: head, desired: UInt(bitPattern: self), ordering: .releasing)
                if done { break }
                head = seen
            }
            pointee.listener = nil
            listener.ring()
        }
        sendMessage()
    }

    /// A step has taken too long.
    func giveUp() { pointee.isClosing ? finish() : end(ETIMEDOUT) }

    /// The link is over; the program sees it at the near end. Its memory stays until the program closes it.
    func end(_ failure: CInt) {
        guard pointee.phase.load(ordering: .relaxed) != Link.Phase.ended else { return }
        pointee.deadline = 0
        pointee.failure.store(failure, ordering: .relaxed)
        pointee.lock.lock()
        pointee.phase.store(Link.Phase.ended, ordering: .releasing)
        pointee.lock.unlock()
        if pointee.queues.pair != nil { verbs_disconnect(pointee.identifier) }
        release(pointee.far)
        pointee.far = -1
        if pointee.isClosing {
            finish()
        } else if pointee.listener != nil {
            // The program has not seen it yet.
            finish()
        }
    }

    // MARK: Closing

    /// The program has closed. What it pushed before still goes out, as a kernel's queue would.
    private func close() {
        guard !pointee.isClosing else {
            if pointee.flow.isBroken { finish() }
            return
        }
        pointee.isClosing = true
        pointee.lock.lock()
        if pointee.phase.load(ordering: .relaxed) == Link.Phase.established { flush() }
        let isDone =
            pointee.phase.load(ordering: .relaxed) != Link.Phase.established || pointee.flow.isIdle
            || pointee.flow.isBroken
        pointee.lock.unlock()
        isDone ? finish() : limit(Self.lingerNanoseconds)
    }

    func finish() {
        let wasListening = pointee.phase.load(ordering: .relaxed) == Link.Phase.listening || pointee.wasListening
        if wasListening { dropConnections() }
        let identifier = pointee.identifier
        pointee.identifier = nil
        if let identifier, pointee.queues.pair != nil { verbs_disconnect(identifier) }
        discard(identifier)
        if let identifier { verbs_destroy(identifier) }
    }

    /// A listener's connections that the program has not taken, and those under way.
    private func dropConnections() {
        var next = LinkRef(bitPattern: pointee.arrived.exchange(0, ordering: .acquiring))
        while let link = next {
            next = link.pointee.nextArrived
            link.finish()
        }
        let me = self
        LinkPool.forEach { if $0.pointee.listener == me { $0.end(ECONNREFUSED) } }
    }

    /// Gives everything back but the identifier, and the link itself: the pair first, so that no device writes any more.
    private func discard(_ identifier: UnsafeMutableRawPointer?) {
        pointee.deadline = 0
        pointee.listener = nil
        if let identifier { verbs_destroy_pair(identifier, &pointee.queues) }
        pointee.exposed.release()
        pointee.copy.release()
        pointee.control.release()
        verbs_destroy_queues(&pointee.queues)
        release(pointee.far)
        release(pointee.near)
        pointee.far = -1
        pointee.near = -1
        pointee.isDead = true
        if pointee.isQueued.load(ordering: .sequentiallyConsistent) == 0 { LinkPool.give(self) }
    }
}
