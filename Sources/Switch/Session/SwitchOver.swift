import CLibc
import CProvider
import Libc
import SessionState
import Synchronization
import Wire

/// Changing the path of one direction at an exact stream offset. docs/protocol.md draws it.
///
/// The sender offers the offset *before* it sends the TCP bytes that end there, so those bytes carry the news: a receiver
/// blocked in the kernel is woken by them and finds the offer at its next call. Nobody ever waits on two paths at once.
extension UnsafeMutablePointer where Pointee == Session {
    // MARK: Sender

    /// One send while TCP still carries this direction. Called with the lock, returns without. Nil: look again.
    func sendBeforeSwitchOver(_ vectors: inout Vectors, _ flags: CInt) -> Int? {
        let outbox = pointee.outbox.unsafelyUnwrapped
        let direction = UnsafeMutablePointer<SessionState>(state)
        var limit = Limits.piece
        let offset = direction.pointee.send.offset.load(ordering: .relaxed)
        if currentOffer(outbox).state == .accepted {
            let left = direction.pointee.send.switchOver.load(ordering: .relaxed) &- offset
            if left == 0 {
                enterCompanionSending(offset)
                sending.unlock()
                return nil
            }
            guard direction.pointee.send.inKernel.load(ordering: .sequentiallyConsistent) == 0 else {
                sending.unlock()
                sched_yield()
                return nil
            }
            limit = Int(truncatingIfNeeded: min(left, UInt64(Limits.piece)))
        } else if !makeOffer(min(vectors.remaining, limit), flags) {
            sending.unlock()
            return nil
        }
        direction.pointee.send.inKernel.wrappingAdd(1, ordering: .sequentiallyConsistent)
        sending.unlock()
        let sent = vectors.send(descriptor, limit: limit, flags: flags)
        if sent > 0 { countKernel(direction.pointee.send, sent) }
        direction.pointee.send.inKernel.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        return sent
    }

    /// Takes back an earlier offer and, when counting is exact, makes one for the end of the next `length` bytes. False: the
    /// earlier offer has just been accepted.
    private func makeOffer(_ length: Int, _ flags: CInt) -> Bool {
        let outbox = pointee.outbox.unsafelyUnwrapped
        guard takeBackOffer(outbox) else { return false }
        guard length > 0, flags & CInt(MSG_OOB) == 0,
            state.pointee.send.inKernel.load(ordering: .sequentiallyConsistent) == 0
        else { return true }
        let offset = state.pointee.send.offset.load(ordering: .relaxed)
        guard kernelBytesSent() == offset else {
            explain(.countMismatch)
            return true
        }
        let start = offset &+ UInt64(truncatingIfNeeded: length)
        state.pointee.send.switchOver.store(start, ordering: .relaxed)
        outbox.pointee.produced.store(start, ordering: .relaxed)
        outbox.pointee.offer.store(Inbox.Offer(.offered, at: start).word, ordering: .releasing)
        return true
    }

    /// No offer stands afterwards; false when it has been accepted first.
    private func takeBackOffer(_ outbox: InboxRef) -> Bool {
        let offer = currentOffer(outbox)
        guard offer.state == .offered else { return offer.state == .none }
        return outbox.pointee.offer.compareExchange(
            expected: offer.word, desired: Inbox.Offer.none.word, ordering: .acquiringAndReleasing
        ).exchanged
    }

    @inline(__always)
    private func currentOffer(_ inbox: InboxRef) -> Inbox.Offer {
        Inbox.Offer(word: inbox.pointee.offer.load(ordering: .acquiring))
    }

    /// Whether the receiver reads the ring from the offered offset on.
    var offerIsAccepted: Bool { pointee.outbox.map { currentOffer($0).state == .accepted } ?? false }

    private func enterCompanionSending(_ offset: UInt64) {
        state.pointee.send.peerCursor.store(offset, ordering: .relaxed)
        _ = use(RingShape(isLarge: false, from: offset))
        state.pointee.send.path.store(Path.companion.rawValue, ordering: .releasing)
        pathChanged()
        log("sending switched over at", descriptor, offset)
    }

    /// Bytes that all processes have put on this TCP connection, by the kernel's count.
    func kernelBytesSent() -> UInt64? {
        var info = san_tcp_info()
        var length = socklen_t(MemoryLayout<san_tcp_info>.size)
        guard sys_getsockopt(descriptor, CInt(IPPROTO_TCP), TCP_INFO, &info, &length) == 0,
            length >= socklen_t(MemoryLayout<san_tcp_info>.size)
        else { return nil }
        return info.bytes_sent &- info.bytes_retrans &+ UInt64(info.notsent_bytes)
    }

    // MARK: Receiver

    /// Accepts a waiting offer if this thread is the only one that could be left behind in the kernel. With the lock held;
    /// true when the path has changed.
    func tryToAccept() -> Bool {
        let inbox = pointee.inbox.unsafelyUnwrapped
        let offer = currentOffer(inbox)
        guard offer.state == .offered, state.pointee.receive.inKernel.load(ordering: .sequentiallyConsistent) == 0
        else { return false }
        let start = offer.start
        let offset = state.pointee.receive.offset.load(ordering: .relaxed)
        guard start >= offset, start &- offset < 1 << 48 else { return false }
        guard kernelBytesReceived() == offset else {
            explain(.countMismatch)
            return false
        }
        guard
            inbox.pointee.offer.compareExchange(
                expected: offer.word, desired: offer.accepted.word, ordering: .acquiringAndReleasing
            ).exchanged
        else { return false }
        state.pointee.receive.switchOver.store(start, ordering: .relaxed)
        state.pointee.receive.path.store(Path.draining.rawValue, ordering: .releasing)
        if start == offset { enterCompanionReceiving() }
        return true
    }

    /// After a receive from TCP: accept, or finish draining, at once, so that the next message already takes the ring.
    func acceptAfterReceiving() {
        receiving.lock()
        switch state.pointee.receive.onPath {
        case .kernel: _ = tryToAccept()
        case .draining:
            let left =
                state.pointee.receive.switchOver.load(ordering: .relaxed)
                &- state.pointee.receive.offset.load(ordering: .relaxed)
            if left == 0 { enterCompanionReceiving() }
        case .companion, .returned: break
        }
        receiving.unlock()
    }

    /// Everything before the switch-over offset is taken from TCP. With the lock held.
    func enterCompanionReceiving() {
        guard state.pointee.receive.onPath == .draining else { return }
        let offset = state.pointee.receive.offset.load(ordering: .relaxed)
        _ = pointee.outbox.unsafelyUnwrapped.pointee.consumed.exchange(offset, ordering: .sequentiallyConsistent)
        state.pointee.receive.path.store(Path.companion.rawValue, ordering: .releasing)
        explain(.none)
        pathChanged()
        log("receiving switched over at", descriptor, offset)
    }

    /// Bytes that all processes have taken from this TCP connection, by the kernel's count; nil while it is moving.
    private func kernelBytesReceived() -> UInt64? {
        for _ in 0..<3 {
            guard let before = bytesArrived() else { return nil }
            var queued: CInt = 0
            guard sys_ioctl_int(descriptor, libc_siocinq(), &queued) == 0 else { return nil }
            if queued == 0 || bytesArrived() == before { return before &- UInt64(UInt32(bitPattern: queued)) }
        }
        return nil
    }

    /// The TCP state of the socket, 0 when it has none.
    var kernelState: CInt {
        var info = san_tcp_info()
        var length = socklen_t(MemoryLayout<san_tcp_info>.size)
        return sys_getsockopt(descriptor, CInt(IPPROTO_TCP), TCP_INFO, &info, &length) == 0 ? CInt(info.state) : 0
    }

    func bytesArrived() -> UInt64? {
        var info = san_tcp_info()
        var length = socklen_t(MemoryLayout<san_tcp_info>.size)
        guard sys_getsockopt(descriptor, CInt(IPPROTO_TCP), TCP_INFO, &info, &length) == 0, length >= 136 else {
            return nil
        }
        return info.bytes_received
    }

    // MARK: Back to TCP

    /// The sender returns to TCP at the present offset; what is in the ring is delivered first. With the lock held.
    func leaveLocked(_ reason: Reason) {
        guard state.pointee.send.onPath == .companion, let outbox = pointee.outbox else { return }
        let offset = state.pointee.send.offset.load(ordering: .relaxed)
        _ = outbox.pointee.produced.bitwiseOr(Inbox.revoked, ordering: .acquiringAndReleasing)
        ringWasRevoked(at: offset)
        explain(reason)
        if pointee.provider.ringDoorbell(pointee.companion) == -EPIPE { companionHasEnded() }
    }

    func leaveSending(_ reason: Reason) {
        sending.lock()
        if state.pointee.send.onPath == .companion { leaveLocked(reason) } else { withdrawOffer() }
        sending.unlock()
    }

    /// No offer may stand when bytes are about to move past the switch. With the lock held.
    private func withdrawOffer() { _ = pointee.outbox.map { takeBackOffer($0) } }

    /// The ring ended at `offset`, by either side; from there on TCP carries the bytes. With the lock held.
    func ringWasRevoked(at offset: UInt64) {
        state.pointee.send.switchBack.store(offset, ordering: .relaxed)
        state.pointee.send.path.store(Path.returned.rawValue, ordering: .releasing)
        pathChanged()
        log("sending returned to TCP at", descriptor, offset)
    }

    /// The receiver ends the ring: the sender's next byte travels on TCP. What is in the ring is still read first.
    func revokeReceiving(_ reason: Reason) {
        receiving.lock()
        if state.pointee.receive.onPath == .companion, let inbox = pointee.inbox {
            let word = inbox.pointee.produced.bitwiseOr(Inbox.revoked, ordering: .acquiringAndReleasing).oldValue
            state.pointee.receive.switchBack.store(word & ~Inbox.revoked, ordering: .relaxed)
            explain(reason)
            wake(inbox.pointee.senderAsleep, state.pointee.receive)
        }
        receiving.unlock()
    }

    /// The ring has ended and is drained: TCP has the rest. With the lock held.
    func returnReceiving(at offset: UInt64) {
        guard state.pointee.receive.onPath == .companion else { return }
        state.pointee.receive.switchBack.store(offset, ordering: .relaxed)
        state.pointee.receive.path.store(Path.returned.rawValue, ordering: .releasing)
        pathChanged()
        log("receiving returned to TCP at", descriptor, offset)
    }

    /// Both directions return to TCP and stay there.
    func returnToKernel(_ reason: Reason) {
        if stage != Session.Stage.attached {
            pointee.stage.store(Session.Stage.kernel, ordering: .releasing)
            explain(reason)
            return
        }
        leaveSending(reason)
        revokeReceiving(reason)
    }

    /// The peer wrote what no peer of ours writes. TCP is reset, as for any broken connection; this process is unharmed.
    func peerIsHostile() {
        log("peer broke the protocol", descriptor)
        explain(.hostilePeer)
        state.pointee.isEnded.store(1, ordering: .releasing)
        state.pointee.pendingError.store(UInt32(ECONNRESET), ordering: .relaxed)
        var linger = CLibc.linger(l_onoff: 1, l_linger: 0)
        _ = sys_setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<CLibc.linger>.size))
        _ = sys_shutdown(descriptor, CInt(SHUT_RDWR))
    }
}
