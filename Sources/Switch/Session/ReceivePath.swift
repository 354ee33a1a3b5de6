import CLibc
import CProvider
import Libc
import SessionState
import Synchronization
import Wire

/// The receiver's side of changing a direction's path. docs/protocol.md says why it is so; every function here is called with the direction's
/// lock unless it says otherwise.
extension UnsafeMutablePointer where Pointee == Session {
    // MARK: Over

    /// Accepts an announcement if nobody could be left behind in the kernel. True when the path has changed.
    func tryToAccept() -> Bool {
        guard state.pointee.receive.onPath == .kernel, let inbox = pointee.inbox, let outbox = pointee.outbox,
            state.pointee.staysOnTCP.load(ordering: .relaxed) == 0
        else { return false }
        let over = Turn(word: inbox.pointee.over.load(ordering: .acquiring))
        // One that is over already, or was accepted once, is nothing to follow.
        guard over != .none, over.epoch != Turn(word: inbox.pointee.back.load(ordering: .acquiring)).epoch,
            over.word != state.pointee.receive.turn.load(ordering: .relaxed),
            state.pointee.receive.inKernel.load(ordering: .sequentiallyConsistent) == 0
        else { return false }
        let offset = state.pointee.receive.offset.load(ordering: .relaxed)
        let start = over.offset(near: offset)
        guard start >= offset else { return false }
        guard kernelBytesReceived() == state.pointee.receive.kernelBytes.load(ordering: .relaxed) else {
            explain(.countMismatch)
            return false
        }
        state.pointee.receive.switchOver.store(start, ordering: .relaxed)
        state.pointee.receive.turn.store(over.word, ordering: .relaxed)
        state.pointee.receive.path.store(Path.draining.rawValue, ordering: .releasing)
        _ = outbox.pointee.accepted.exchange(over.word, ordering: .sequentiallyConsistent)
        if start == offset { enterRing() }
        pushReceiver()
        return true
    }

    /// After a receive from TCP: accept, or finish draining, at once, so that the next message already takes the ring. Takes the lock.
    func acceptAfterReceiving() {
        receiving.lock()
        switch state.pointee.receive.onPath {
        case .kernel: _ = tryToAccept()
        case .draining: if bytesBeforeRing == 0 { finishDraining() }
        case .companion, .returned, .asking: break
        }
        receiving.unlock()
    }

    /// TCP bytes still to come before the interval in the ring.
    var bytesBeforeRing: UInt64 {
        state.pointee.receive.switchOver.load(ordering: .relaxed)
            &- state.pointee.receive.offset.load(ordering: .relaxed)
    }

    /// Everything before the switch-over offset is taken from TCP.
    func finishDraining() {
        guard state.pointee.receive.onPath == .draining else { return }
        if !dropCancelled() { enterRing() }
    }

    /// While draining: an interval that has been cancelled is no longer waited for. Readiness never came from anywhere but TCP.
    func dropCancelled() -> Bool {
        guard state.pointee.receive.onPath == .draining,
            intervalEnd == state.pointee.receive.switchOver.load(ordering: .relaxed)
        else { return false }
        state.pointee.receive.path.store(Path.kernel.rawValue, ordering: .releasing)
        _ = pointee.outbox?.pointee.accepted.exchange(0, ordering: .sequentiallyConsistent)
        pushReceiver()
        return true
    }

    private func enterRing() {
        guard state.pointee.receive.onPath == .draining, let outbox = pointee.outbox else { return }
        let offset = state.pointee.receive.offset.load(ordering: .relaxed)
        _ = outbox.pointee.consumed.exchange(offset, ordering: .sequentiallyConsistent)
        state.pointee.receive.intervals.wrappingAdd(1, ordering: .relaxed)
        state.pointee.receive.path.store(Path.companion.rawValue, ordering: .releasing)
        explain(.none)
        pathChanged()
        log("receiving switched over at", descriptor, offset)
        pushReceiver()
    }

    // MARK: The end of an interval

    /// Whether the interval in the ring has an end by now. Without the lock a hint.
    @inline(__always)
    var intervalHasEnd: Bool {
        guard let inbox = pointee.inbox else { return false }
        let turn = Turn(word: state.pointee.receive.turn.load(ordering: .relaxed))
        return Turn(word: inbox.pointee.back.load(ordering: .acquiring)).epoch == turn.epoch
            || inbox.pointee.over.load(ordering: .acquiring) != turn.word
    }

    /// Whether everything in the interval has been taken and it has ended. Without the lock a hint.
    @inline(__always)
    var isAtIntervalEnd: Bool {
        guard intervalHasEnd, let end = intervalEnd else { return false }
        // A peer that ends an interval before what was taken from it is hostile, and gains nothing.
        return Int64(bitPattern: end &- state.pointee.receive.offset.load(ordering: .relaxed)) <= 0
    }

    /// The offset at which the interval ends, nil while that is open.
    private var intervalEnd: UInt64? {
        guard let inbox = pointee.inbox else { return nil }
        let turn = Turn(word: state.pointee.receive.turn.load(ordering: .relaxed))
        let back = Turn(word: inbox.pointee.back.load(ordering: .acquiring))
        let offset = state.pointee.receive.offset.load(ordering: .relaxed)
        if back.epoch == turn.epoch { return back.offset(near: offset) }
        // An interval whose announcement was replaced while it was accepted was never used.
        return inbox.pointee.over.load(ordering: .acquiring) == turn.word
            ? nil : state.pointee.receive.switchOver.load(ordering: .relaxed)
    }

    /// Back to TCP if the interval is over and everything in it was taken. True when the path has changed.
    func returnIfDrained() -> Bool {
        guard state.pointee.receive.onPath == .companion, isAtIntervalEnd else { return false }
        returnReceiving(at: state.pointee.receive.offset.load(ordering: .relaxed))
        return true
    }

    private func returnReceiving(at offset: UInt64) {
        state.pointee.receive.switchBack.store(offset, ordering: .relaxed)
        state.pointee.receive.path.store(Path.kernel.rawValue, ordering: .releasing)
        _ = pointee.outbox?.pointee.accepted.exchange(0, ordering: .sequentiallyConsistent)
        pathChanged()
        log("receiving returned to TCP at", descriptor, offset)
        pushReceiver()
    }

    /// For those who only wait (epoll, poll): TCP's readiness counts as soon as the ring is done with. Takes the lock.
    func returnBeforeSleep() {
        if receivesOnCompanion, isAtIntervalEnd { _ = hasReturned() }
    }

    /// Takes the lock.
    func hasReturned() -> Bool {
        receiving.lock()
        defer { receiving.unlock() }
        return returnIfDrained()
    }

    // MARK: Asking to return

    /// Waits, without the lock, for the answer to a wish of this process or a relative. 0 or EINTR.
    func waitForAnswer() -> CInt {
        var pause = timespec(tv_sec: 0, tv_nsec: 1_000_000)
        return sys_ppoll(nil, 0, &pause, nil) == -Int(EINTR) ? EINTR : 0
    }

    /// The receiver's next byte is to come by TCP: this process will not read the ring any longer. Takes the lock, which is held while the peer
    /// answers, since nobody may read meanwhile.
    func leaveReceiving(_ reason: Reason) {
        receiving.lock()
        defer { receiving.unlock() }
        let path = state.pointee.receive.onPath
        guard path == .companion || path == .draining, let outbox = pointee.outbox else { return }
        if path == .companion, returnIfDrained() { return }
        explain(reason)
        let offset = state.pointee.receive.offset.load(ordering: .relaxed)
        let stop = path == .draining ? state.pointee.receive.switchOver.load(ordering: .relaxed) : offset
        let turn = Turn(word: state.pointee.receive.turn.load(ordering: .relaxed))
        state.pointee.receive.switchBack.store(stop, ordering: .relaxed)
        state.pointee.receive.path.store(Path.asking.rawValue, ordering: .releasing)
        _ = outbox.pointee.wish.exchange(Turn(at: stop, epoch: turn.epoch).word, ordering: .sequentiallyConsistent)
        pushReceiver()
        pathChanged()
        // Seen by the peer's switch thread even if all its other threads are busy.
        pointee.provider.finish(pointee.companion)
        let limit = libc_nanoseconds() &+ Limits.answerNanoseconds
        while !isAnswered() {
            guard libc_nanoseconds() < limit else {
                return log("no answer to the wish to return, offset", descriptor, stop)
            }
            var pause = timespec(tv_sec: 0, tv_nsec: 50_000)
            _ = sys_ppoll(nil, 0, &pause, nil)
        }
    }

    /// Whether the sender has answered a wish, which settles where the next byte is.
    func isAnswered() -> Bool {
        guard state.pointee.receive.onPath == .asking else { return true }
        let offset = state.pointee.receive.offset.load(ordering: .relaxed)
        // A sender that has finished gives no answer, and sends nothing after what is in the ring.
        let mayAnswer = peerIsOpen && state.pointee.isEnded.load(ordering: .relaxed) == 0
        guard let end = intervalEnd ?? (mayAnswer ? nil : UInt64.max >> 1) else { return false }
        let stop = state.pointee.receive.switchBack.load(ordering: .relaxed)
        if Int64(bitPattern: end &- stop) <= 0 {
            returnReceiving(at: stop)
        } else {
            // The sender had come back by itself meanwhile: the ring has the bytes before `end`, and only the ring.
            let isDraining = offset != stop
            state.pointee.receive.path.store(
                isDraining ? Path.draining.rawValue : Path.companion.rawValue, ordering: .releasing)
            pathChanged()
        }
        return true
    }

    /// Both directions return to TCP and stay there. Takes both locks, one after the other.
    func returnToKernel(_ reason: Reason) {
        if stage != Session.Stage.attached {
            pointee.stage.store(Session.Stage.kernel, ordering: .releasing)
            explain(reason)
            return
        }
        state.pointee.staysOnTCP.store(1, ordering: .sequentiallyConsistent)
        leaveSending(reason)
        leaveReceiving(reason)
        explain(reason)
    }

    /// The peer wrote what no peer of ours writes. TCP is reset, as for any broken connection; this process is unharmed.
    func peerIsHostile() {
        log("peer broke the protocol", descriptor)
        reset(.hostilePeer)
    }

    /// Ends the connection as a reset by the peer would: bytes of the stream are lost, or may be.
    func reset(_ reason: Reason) {
        explain(reason)
        state.pointee.isEnded.store(1, ordering: .releasing)
        state.pointee.pendingError.store(UInt32(ECONNRESET), ordering: .relaxed)
        var linger = CLibc.linger(l_onoff: 1, l_linger: 0)
        _ = sys_setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<CLibc.linger>.size))
        _ = sys_shutdown(descriptor, CInt(SHUT_RDWR))
    }
}
