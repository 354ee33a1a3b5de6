import CLibc
import CProvider
import Libc
import SessionState
import Synchronization
import Wire

/// The sender's side of changing a direction's path. docs/protocol.md says why it is so; every function here is called with the direction's
/// lock unless it says otherwise.
extension UnsafeMutablePointer where Pointee == Session {
    // MARK: Over

    /// One send while TCP carries this direction. Returns without the lock. Nil: look again.
    func sendByTCP(_ vectors: inout Vectors, _ flags: CInt) -> Int? {
        answerWish()
        guard hasSentAgain() else {
            sending.unlock()
            return isNonBlocking(flags) ? IOResult.wouldBlock.posix : waitForTCP()
        }
        let limit = limitBeforeTurn()
        guard limit > 0 else {
            sending.unlock()
            return nil
        }
        let length = min(vectors.remaining, limit)
        if announcedTurn == .none, mayAnnounce(flags), length > 0 { announce(length) }
        let send = state
        send.pointee.send.inKernel.wrappingAdd(1, ordering: .sequentiallyConsistent)
        sending.unlock()
        let sent = vectors.send(descriptor, limit: limit, flags: flags)
        if sent > 0 { countKernel(send.pointee.send, sent) }
        send.pointee.send.inKernel.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        return sent
    }

    /// How many bytes TCP may take now. 0: this direction has just gone over.
    private func limitBeforeTurn() -> Int {
        let whole = mayGoOver ? Limits.piece : Int.max
        let turn = announcedTurn
        guard turn != .none else { return whole }
        // Where other threads' bytes will end is not known: the announcement is void.
        guard state.pointee.send.inKernel.load(ordering: .sequentiallyConsistent) == 0 else {
            cancel(turn)
            return whole
        }
        let offset = state.pointee.send.offset.load(ordering: .relaxed)
        let start = turn.offset(near: offset)
        if start != offset { return Int(truncatingIfNeeded: min(start &- offset, UInt64(Limits.piece))) }
        guard isAccepted(turn) else {
            cancel(turn)
            return whole
        }
        goOver(at: offset)
        return 0
    }

    /// The announcement that stands, while TCP still carries the bytes before it.
    private var announcedTurn: Turn {
        state.pointee.send.onPath == .kernel ? Turn(word: state.pointee.send.turn.load(ordering: .relaxed)) : .none
    }

    private func isAccepted(_ turn: Turn) -> Bool {
        pointee.inbox?.pointee.accepted.load(ordering: .acquiring) == turn.word
    }

    /// Whether the next byte may take the ring.
    var isAtAcceptedTurn: Bool {
        let turn = announcedTurn
        let offset = state.pointee.send.offset.load(ordering: .relaxed)
        return turn != .none && turn.offset(near: offset) == offset && isAccepted(turn)
    }

    private var mayGoOver: Bool {
        state.pointee.staysOnTCP.load(ordering: .relaxed) == 0 && state.pointee.isEnded.load(ordering: .relaxed) == 0
    }

    /// Whether counting is exact and the receiver has left the interval before.
    private func mayAnnounce(_ flags: CInt) -> Bool {
        guard mayGoOver, let inbox = pointee.inbox, flags & CInt(MSG_OOB) == 0,
            state.pointee.send.calls.load(ordering: .relaxed) >= state.pointee.send.quietUntil.load(ordering: .relaxed),
            inbox.pointee.wish.load(ordering: .relaxed) == 0, receiverHasReturned,
            state.pointee.send.inKernel.load(ordering: .sequentiallyConsistent) == 0
        else { return false }
        if kernelBytesSent() == state.pointee.send.kernelBytes.load(ordering: .relaxed) { return true }
        explain(.countMismatch)
        return false
    }

    /// Whether the interval used last is over for the receiver too.
    private var receiverHasReturned: Bool {
        guard state.pointee.send.onPath == .returned else { return true }
        guard !isAccepted(Turn(word: state.pointee.send.turn.load(ordering: .relaxed))) else { return false }
        state.pointee.send.turn.store(0, ordering: .relaxed)
        state.pointee.send.path.store(Path.kernel.rawValue, ordering: .releasing)
        return true
    }

    private func announce(_ length: Int) {
        let epoch = Turn.next(state.pointee.send.epoch.load(ordering: .relaxed))
        let start = state.pointee.send.offset.load(ordering: .relaxed) &+ UInt64(truncatingIfNeeded: length)
        let turn = Turn(at: start, epoch: epoch)
        state.pointee.send.epoch.store(epoch, ordering: .relaxed)
        state.pointee.send.turn.store(turn.word, ordering: .relaxed)
        pointee.outbox?.pointee.over.store(turn.word, ordering: .releasing)
        pushSender()
    }

    /// The announced interval is empty: TCP goes on where it would have begun.
    private func cancel(_ turn: Turn) {
        guard let outbox = pointee.outbox, let inbox = pointee.inbox else { return }
        state.pointee.send.turn.store(0, ordering: .relaxed)
        _ = outbox.pointee.back.exchange(turn.word, ordering: .sequentiallyConsistent)
        pushSender()
        // A receiver that has accepted it already may sleep at the ring.
        wake(inbox.pointee.receiverAsleep, state.pointee.send)
    }

    private func goOver(at offset: UInt64) {
        state.pointee.send.switchOver.store(offset, ordering: .relaxed)
        state.pointee.send.peerCursor.store(offset, ordering: .relaxed)
        state.pointee.send.intervals.wrappingAdd(1, ordering: .relaxed)
        _ = use(RingShape(isLarge: false, from: offset))
        pointee.outbox?.pointee.produced.store(offset, ordering: .releasing)
        state.pointee.send.path.store(Path.companion.rawValue, ordering: .releasing)
        pathChanged()
        log("sending switched over at", descriptor, offset)
    }

    // MARK: Back

    /// Ends the interval at `offset`; ring bytes from there on are sent again by TCP.
    private func endInterval(at end: UInt64, _ reason: Reason) {
        guard let outbox = pointee.outbox else { return }
        let epoch = Turn(word: state.pointee.send.turn.load(ordering: .relaxed)).epoch
        let offset = state.pointee.send.offset.load(ordering: .relaxed)
        state.pointee.send.switchBack.store(end, ordering: .relaxed)
        state.pointee.send.resendFrom.store(end == offset ? DirectionState.noOffset : end, ordering: .relaxed)
        state.pointee.send.path.store(Path.returned.rawValue, ordering: .releasing)
        _ = outbox.pointee.back.exchange(Turn(at: end, epoch: epoch).word, ordering: .sequentiallyConsistent)
        explain(reason)
        beQuiet()
        pathChanged()
        log("sending returned to TCP at", descriptor, end)
        pushSender()
        ringDoorbell()
    }

    /// The more often a direction has returned, the longer it stays.
    private func beQuiet() {
        let intervals = min(state.pointee.send.intervals.load(ordering: .relaxed), 12)
        state.pointee.send.quietUntil.store(
            state.pointee.send.calls.load(ordering: .relaxed) &+ (8 << intervals), ordering: .relaxed)
    }

    /// TCP carries this direction from the present offset on, and no announcement stands.
    func leaveLocked(_ reason: Reason) {
        switch state.pointee.send.onPath {
        case .companion: endInterval(at: state.pointee.send.offset.load(ordering: .relaxed), reason)
        case .kernel:
            let turn = announcedTurn
            if turn != .none { cancel(turn) }
        case .draining, .returned, .asking: break
        }
    }

    /// Before bytes are moved past the switch by a call of the kernel's. Takes the lock; waits, as a blocking send would, until TCP has taken
    /// what is to be sent again.
    func leaveSending(_ reason: Reason) {
        while true {
            sending.lock()
            answerWish()
            leaveLocked(reason)
            let isDone = hasSentAgain()
            sending.unlock()
            if isDone || waitForTCP() != nil { return }
        }
    }

    /// The receiver cannot read the ring any longer (exec, a descriptor passed on) and has said where it stopped.
    func answerWish() {
        guard let inbox = pointee.inbox else { return }
        let wish = Turn(word: inbox.pointee.wish.load(ordering: .sequentiallyConsistent))
        guard wishIsOpen(wish) else { return }
        switch state.pointee.send.onPath {
        case .kernel: cancel(announcedTurn)
        case .companion:
            let offset = state.pointee.send.offset.load(ordering: .relaxed)
            let end = wish.offset(near: offset)
            guard end <= offset, end >= consumedByPeer else { return peerIsHostile() }
            endInterval(at: end, .peerReturned)
        case .draining, .returned, .asking: break
        }
    }

    /// Whether `wish` is about the present interval. After a FIN no byte can follow: the receiver takes the rest from the ring.
    func wishIsOpen(_ wish: Turn) -> Bool {
        wish != .none && wish.epoch == Turn(word: state.pointee.send.turn.load(ordering: .relaxed)).epoch
            && state.pointee.send.onPath != .returned && state.pointee.send.isShut.load(ordering: .relaxed) == 0
    }

    /// The peer's end of the companion is closed while its TCP socket is open: it has called exec past libc. What it took, it took.
    func followPeer() {
        answerWish()
        guard state.pointee.send.onPath == .companion, state.pointee.isEnded.load(ordering: .relaxed) != 0 else {
            return
        }
        let offset = state.pointee.send.offset.load(ordering: .relaxed)
        endInterval(at: peerIsOpen ? min(consumedByPeer, offset) : offset, .companionEnded)
    }

    // MARK: Sending again

    /// Gives TCP what it takes, without waiting, of the ring bytes that the receiver did not read. True: none is left.
    func hasSentAgain() -> Bool {
        var from = state.pointee.send.resendFrom.load(ordering: .relaxed)
        if from == DirectionState.noOffset { return true }
        let end = state.pointee.send.offset.load(ordering: .relaxed)
        while from != end {
            let sent = sendAgain(from, end)
            if sent == -Int(EAGAIN) {
                Resending.isNeeded()
                return false
            }
            // An error of TCP's own is the next call's to show, and the bytes are lost as TCP's would be.
            if sent <= 0 { break }
            from &+= UInt64(truncatingIfNeeded: sent)
            state.pointee.send.kernelBytes.wrappingAdd(UInt64(truncatingIfNeeded: sent), ordering: .relaxed)
            state.pointee.send.resendFrom.store(from, ordering: .relaxed)
        }
        state.pointee.send.resendFrom.store(DirectionState.noOffset, ordering: .relaxed)
        return true
    }

    private func sendAgain(_ from: UInt64, _ end: UInt64) -> Int {
        guard let outbox = pointee.outbox else { return -Int(EPIPE) }
        let shape = RingShape(word: state.pointee.send.shape.load(ordering: .relaxed))
        let isBefore = from < shape.from
        let ring = Ring(outbox, isLarge: shape.isLarge != isBefore, large: pointee.outboxRing)
        let count = min(min(end, isBefore ? shape.from : end) &- from, ring.capacity)
        var result = 0
        ring.withBytes(at: from, count: Int(truncatingIfNeeded: count)) { first, length, _, _ in
            result = sys_send(descriptor, first, length, CInt(MSG_DONTWAIT | MSG_NOSIGNAL))
        }
        return result
    }

    /// Before a FIN: what is to be sent again goes first. Bounded, since closing does not wait for a peer.
    func sendAgainBeforeEnd() {
        answerWish()
        let limit = libc_nanoseconds() &+ Limits.answerNanoseconds
        while !hasSentAgain(), libc_nanoseconds() < limit {
            var entry = pollfd(fd: descriptor, events: CShort(POLLOUT), revents: 0)
            _ = sys_poll(&entry, 1, 10)
        }
    }

    /// Waits, without the lock, until TCP takes bytes again. Nil, or what the call returns that was interrupted or ran out of time.
    private func waitForTCP() -> Int? {
        var entry = pollfd(fd: descriptor, events: CShort(POLLOUT), revents: 0)
        let limit = state.pointee.sendTimeout.load(ordering: .relaxed)
        var timeout = timespec(tv_sec: Int(limit / 1_000_000_000), tv_nsec: Int(limit % 1_000_000_000))
        let result = withUnsafeMutablePointer(to: &timeout) { sys_ppoll(&entry, 1, limit == 0 ? nil : $0, nil) }
        if result == 0 { return IOResult.wouldBlock.posix }
        return result < 0 ? IOResult.failed(CInt(truncatingIfNeeded: -result)).posix : nil
    }
}
