import CLibc
import CProvider
import Libc
import SessionState
import Synchronization
import Wire

/// Finding the companion: when a connection has proved worth it, the client proposes at the server's rendezvous and the server
/// claims at its broker. Calls on the session drive it; nothing waits for it.
extension UnsafeMutablePointer where Pointee == Session {
    /// Called before each data call while the session is on TCP and may leave it.
    @inline(__always)
    func lookForCompanion() {
        let calls =
            state.pointee.send.calls.load(ordering: .relaxed) &+ state.pointee.receive.calls.load(ordering: .relaxed)
        // `stat` names its ends once a connection is more than one request and its answer.
        if calls == 3 { nameEnds() }
        let bytes =
            state.pointee.send.offset.load(ordering: .relaxed) &+ state.pointee.receive.offset.load(ordering: .relaxed)
        let next = pointee.nextLook.load(ordering: .relaxed)
        if calls >= next || (bytes >= settings.afterBytes && next == settings.afterCalls) { look(calls) }
    }

    @inline(never)
    private func look(_ calls: UInt64) {
        let (entered, before) = pointee.stage.compareExchange(
            expected: Session.Stage.fresh, desired: Session.Stage.looking, ordering: .acquiringAndReleasing)
        if entered {
            // From now on a look costs something: again only after twice as many calls.
            pointee.nextLook.store(max(calls &* 2, 16), ordering: .relaxed)
            begin()
        } else if before == Session.Stage.pending {
            guard pointee.setup.compareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged else { return }
            if stage == Session.Stage.pending { lookForAnswer(calls) }
            pointee.setup.store(0, ordering: .releasing)
        }
    }

    private func begin() {
        let fd = descriptor
        guard let local = SocketAddress.local(of: fd), let peer = SocketAddress.peer(of: fd) else {
            // Not connected (yet).
            pointee.stage.store(Session.Stage.fresh, ordering: .releasing)
            return
        }
        pointee.tuple = ConnectionTuple(local: local, peer: peer)
        publishAddresses(local, peer)
        Providers.refresh()
        guard Providers.suitable(after: nil, local, peer) != nil else { return stayOnKernel(.peerNotOnThisHost) }
        guard state.liveHolders == 1 else {
            explain(.sharedBeforeSwitch)
            pointee.stage.store(Session.Stage.fresh, ordering: .releasing)
            return
        }
        readOptions(fd)
        Spin.calibrate()
        let isClient = state.pointee.role.load(ordering: .relaxed) == 1
        let reason = isClient ? Proposal.make(self) : Broker.claim(self)
        if let reason {
            explain(reason)
            pointee.stage.store(Session.Stage.fresh, ordering: .releasing)
            log(
                isClient ? "no companion proposed, reason" : "no companion claimed, reason", fd, UInt64(reason.rawValue)
            )
        } else if stage == Session.Stage.looking {
            explain(.waitingForPeer)
            pointee.patience.store(64, ordering: .relaxed)
            pointee.nextLook.store(0, ordering: .relaxed)
            pointee.stage.store(Session.Stage.pending, ordering: .releasing)
        }
    }

    @inline(never)
    private func nameEnds() {
        if let local = SocketAddress.local(of: descriptor), let peer = SocketAddress.peer(of: descriptor) {
            publishAddresses(local, peer)
        }
    }

    private func publishAddresses(_ local: SocketAddress, _ peer: SocketAddress) {
        state.pointee.localHigh.store(local.high, ordering: .relaxed)
        state.pointee.localLow.store(local.low, ordering: .relaxed)
        state.pointee.peerHigh.store(peer.high, ordering: .relaxed)
        state.pointee.peerLow.store(peer.low, ordering: .relaxed)
        state.pointee.ports.store(UInt32(local.port) << 16 | UInt32(peer.port), ordering: .relaxed)
    }

    /// What the companion path must know and setsockopt and fcntl keep current from here on.
    private func readOptions(_ fd: CInt) {
        state.pointee.isNonBlocking.store(sys_fcntl(fd, F_GETFL, 0) & Int(O_NONBLOCK) != 0 ? 1 : 0, ordering: .relaxed)
        readTimeouts()
        var value: CInt = 1
        var length = socklen_t(4)
        if sys_getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &value, &length) == 0 {
            state.pointee.lowWater.store(UInt64(max(1, min(value, CInt(Limits.maximumRing / 2)))), ordering: .relaxed)
        }
    }

    func readTimeouts() {
        func nanoseconds(_ option: CInt) -> UInt64 {
            var value = timeval()
            var length = socklen_t(MemoryLayout<timeval>.size)
            guard sys_getsockopt(descriptor, SOL_SOCKET, option, &value, &length) == 0 else { return 0 }
            return UInt64(truncatingIfNeeded: value.tv_sec &* 1_000_000_000 &+ value.tv_usec &* 1000)
        }
        state.pointee.receiveTimeout.store(nanoseconds(SO_RCVTIMEO), ordering: .relaxed)
        state.pointee.sendTimeout.store(nanoseconds(SO_SNDTIMEO), ordering: .relaxed)
    }

    /// Has the peer, or the broker, answered? With `setup` held.
    private func lookForAnswer(_ calls: UInt64) {
        if pointee.isClaimed, let arrival = Broker.arrival(self) {
            pointee.provider = arrival.provider
            return answer(arrival.message, arrival.companion)
        }
        guard pointee.companion != 0 else { return }
        if pointee.isConnecting, !hasConnected(calls) { return }
        var bytes:
            (
                UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64,
                UInt64, UInt64, UInt64, UInt64, UInt64
            ) =
                (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        let companion = pointee.companion
        let count = withUnsafeMutableBytes(of: &bytes) { pointee.provider.receive(companion, $0) }
        if count == -Int(EAGAIN) {
            pointee.nextLook.store(calls &+ (calls < 256 ? 1 : 16), ordering: .relaxed)
            return
        }
        guard count > 0 else {
            releaseCompanion()
            if count == -Int(ECONNREFUSED) { Proposal.refuse(pointee.tuple.peer) }
            pointee.nextLook.store(max(calls &* 2, 16), ordering: .relaxed)
            let reason = Proposal.reason(CInt(truncatingIfNeeded: count))
            explain(reason)
            log("no companion proposed, reason", descriptor, UInt64(reason.rawValue))
            pointee.stage.store(Session.Stage.fresh, ordering: .releasing)
            return
        }
        guard let message = withUnsafeBytes(of: &bytes, { Message(UnsafeRawBufferPointer(rebasing: $0[0..<count])) })
        else {
            releaseCompanion()
            return stayOnKernel(.malformedMessage)
        }
        switch message.kind {
        case .acceptance where message.nonce == pointee.nonce: attach(message)
        case .grant where message.tuple == pointee.tuple.reversed:
            var granted: san_socket = 0
            guard pointee.provider.adopt(companion, &granted) == 0 else {
                releaseCompanion()
                return stayOnKernel(.malformedMessage)
            }
            pointee.provider.close(companion)
            pointee.companion = 0
            answer(message, granted)
        default:
            releaseCompanion()
            stayOnKernel(.malformedMessage)
        }
    }

    /// Whether the connect that was started has ended well; the proposal is on its way then. With `setup` held.
    private func hasConnected(_ calls: UInt64) -> Bool {
        let result = pointee.provider.connectResult(pointee.companion)
        if result == -EINPROGRESS {
            pointee.nextLook.store(calls &+ (calls < 256 ? 1 : 16), ordering: .relaxed)
            return false
        }
        pointee.isConnecting = false
        var reason = Proposal.reason(result)
        if result == 0 {
            guard let failure = Proposal.send(self) else { return true }
            reason = failure
        } else {
            releaseCompanion()
            Proposal.refuse(pointee.tuple.peer)
        }
        pointee.nextLook.store(max(calls &* 2, 16), ordering: .relaxed)
        explain(reason)
        pointee.stage.store(Session.Stage.fresh, ordering: .releasing)
        return false
    }

    /// Server: exposes memory of its own, tells the client, and is attached.
    func answer(_ proposal: Message, _ companion: san_socket) {
        pointee.companion = companion
        pointee.nonce = proposal.nonce
        var acceptance = Message(kind: .acceptance, tuple: proposal.tuple)
        acceptance.nonce = proposal.nonce
        // The peer's memory first: it is what may be refused, and sending exposes ours over it.
        guard mapPeer(proposal) else {
            releaseCompanion()
            return stayOnKernel(.malformedMessage)
        }
        guard expose(&acceptance), transmit(acceptance) else {
            releaseCompanion()
            return stayOnKernel(.memoryExhausted)
        }
        finishAttaching()
    }

    private func attach(_ acceptance: Message) {
        guard mapPeer(acceptance) else {
            releaseCompanion()
            return stayOnKernel(.malformedMessage)
        }
        finishAttaching()
    }

    /// Memory for the peer to write, described in `message`.
    func expose(_ message: inout Message) -> Bool {
        guard pointee.provider.eventDescriptor(pointee.companion) >= 0 else { return false }
        let ring = pointee.provider.ringBytes
        let exposed = withUnsafeMutableBytes(of: &message.descriptor) {
            pointee.provider.expose(pointee.companion, Limits.exposed(ring), $0)
        }
        guard let (address, length) = exposed else { return false }
        message.ring = ring
        message.descriptorLength = UInt8(truncatingIfNeeded: length)
        pointee.inbox = address.assumingMemoryBound(to: Inbox.self)
        pointee.inboxRing = ring
        return true
    }

    func transmit(_ message: Message) -> Bool {
        withUnsafeTemporaryAllocation(byteCount: Message.size, alignment: 8) { bytes in
            message.encode(into: bytes)
            return pointee.provider.send(pointee.companion, UnsafeRawBufferPointer(bytes))
        }
    }

    private func mapPeer(_ message: Message) -> Bool {
        var message = message
        let address = withUnsafeBytes(of: &message.descriptor) {
            pointee.provider.map(
                pointee.companion, UnsafeRawBufferPointer(rebasing: $0[0..<Int(message.descriptorLength)]),
                Limits.exposed(message.ring))
        }
        guard let address else { return false }
        pointee.outbox = address.assumingMemoryBound(to: Inbox.self)
        pointee.outboxRing = message.ring
        return true
    }

    /// The pair of memories is there: the stage that every call looks at.
    private func finishAttaching() {
        pointee.doorbell = pointee.provider.eventDescriptor(pointee.companion)
        pointee.stage.store(Session.Stage.attached, ordering: .sequentiallyConsistent)
        Broker.follow(self)
        log("companion attached", descriptor, UInt64(pointee.provider.pointee.index))
    }
}
