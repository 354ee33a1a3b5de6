import CLibc
import Libc
import SessionState
import Synchronization
import Wire

/// The sending direction of a session: which path takes the next bytes, and putting them there.
extension UnsafeMutablePointer where Pointee == Session {
    /// One send call. Returns what the libc call returns, errno set.
    @inline(__always)
    func send(_ vectors: inout Vectors, _ flags: CInt) -> Int {
        if stage != Session.Stage.attached {
            if let result = sendBeforeCompanion(&vectors, flags) { return result }
        }
        return sendAttached(&vectors, flags)
    }

    /// TCP, counted, piece by piece. Nil when the companion arrived before anything was sent.
    @inline(never)
    private func sendBeforeCompanion(_ vectors: inout Vectors, _ flags: CInt) -> Int? {
        var done = 0
        while true {
            let mayLeave = stage != Session.Stage.kernel
            if mayLeave { lookForCompanion() }
            let isWorthAPiece = mayLeave && mayBePiece
            guard let sent = sendPiece(vectors, flags, isWorthAPiece ? Limits.piece : .max) else {
                return done == 0 ? nil : finish(done, sendAttached(&vectors, flags))
            }
            if sent <= 0 { return finish(done, sent) }
            done &+= sent
            vectors.advance(sent)
            if sent < Limits.piece || vectors.remaining == 0 || isAboutToSwitch(flags) { return done }
        }
    }

    /// Whether to cut a write before the companion is there: at first and while the answer is awaited, but not for ever, and not for
    /// a peer known to be unaware.
    private var mayBePiece: Bool {
        if stage != Session.Stage.pending {
            return state.pointee.reason.load(ordering: .relaxed) == Reason.shortConnection.rawValue
        }
        let left = pointee.patience.load(ordering: .relaxed)
        if left > 0 { pointee.patience.store(left &- 1, ordering: .relaxed) }
        return left > 0
    }

    /// A short count, which a non-blocking caller expects at any time, gives the peer time to answer: its socket buffer would take
    /// megabytes at once.
    private func isAboutToSwitch(_ flags: CInt) -> Bool {
        let stage = stage
        let isAwaited = stage == Session.Stage.pending && pointee.patience.load(ordering: .relaxed) > 0
        return (isAwaited || stage == Session.Stage.attached) && isNonBlocking(flags)
    }

    /// What a call returns that has sent `done` bytes before a last step returned `last`.
    private func finish(_ done: Int, _ last: Int) -> Int { last < 0 ? (done > 0 ? done : last) : done &+ last }

    private func sendPiece(_ vectors: Vectors, _ flags: CInt, _ limit: Int) -> Int? {
        // In the kernel before the second look at the stage: an announcement is made only when nobody is (mayAnnounce).
        state.pointee.send.inKernel.wrappingAdd(1, ordering: .sequentiallyConsistent)
        defer { state.pointee.send.inKernel.wrappingSubtract(1, ordering: .sequentiallyConsistent) }
        if pointee.stage.load(ordering: .sequentiallyConsistent) == Session.Stage.attached { return nil }
        let sent = vectors.send(descriptor, limit: limit, flags: flags)
        if sent > 0 { countKernel(state.pointee.send, sent) }
        return sent
    }

    @inline(never)
    private func sendAttached(_ vectors: inout Vectors, _ flags: CInt) -> Int {
        if flags & ~CInt(MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE | MSG_EOR | MSG_CONFIRM) != 0 {
            leaveSending(.urgentData)
        }
        var done = 0
        var deadline: UInt64 = 0
        while true {
            sending.lock()
            switch state.pointee.send.onPath {
            case .kernel, .returned, .draining, .asking:
                let result = sendByTCP(&vectors, flags)  // unlocks
                guard let result else { continue }
                if result < 0 { return done > 0 ? done : result }
                done &+= result
                vectors.advance(result)
                // A piece went out whole: the rest may already belong to the ring. Anything less is TCP's own short count.
                if result == 0 || vectors.remaining == 0 { return done }
                guard isAtAcceptedTurn || (result == Limits.piece && !isAboutToSwitch(flags)) else { return done }
            case .companion:
                if let outcome = sendOnCompanion(&vectors, &done, flags, &deadline) { return outcome }  // unlocks
            }
        }
    }

    /// Puts bytes into the ring; nil: go round again (the path may have changed). Called with the lock, returns without.
    private func sendOnCompanion(_ vectors: inout Vectors, _ done: inout Int, _ flags: CInt, _ deadline: inout UInt64)
        -> Int?
    {
        if state.pointee.send.isShut.load(ordering: .relaxed) != 0 || isPeerGone() {
            followPeer()
            leaveLocked(.companionEnded)
            sending.unlock()
            return nil
        }
        let error = takePendingError()
        if error != 0 {
            sending.unlock()
            if done > 0 { return done }
            if flags & CInt(MSG_NOSIGNAL) == 0, error == EPIPE { sys_raise_sigpipe() }
            return IOResult.failed(error).posix
        }
        if vectors.remaining == 0 {
            sending.unlock()
            return done
        }
        switch putIntoRing(vectors) {
        case .done(let count):
            sending.unlock()
            done &+= count
            vectors.advance(count)
            if vectors.remaining == 0 { return done }
        case .failed(let code):
            sending.unlock()
            return done > 0 ? done : IOResult.failed(code).posix
        case .wouldBlock:
            answerWish()
            let isOver = state.pointee.send.onPath != .companion
            sending.unlock()
            if isOver { return nil }
        }
        if isNonBlocking(flags) {
            // Writability is an event from now on, as after a short write to TCP (SOCK_NOSPACE).
            pointee.blockedSends.wrappingAdd(1, ordering: .relaxed)
            armSender()
            if !maySend || done > 0 { return done > 0 ? done : IOResult.wouldBlock.posix }
            return nil
        }
        if deadline == 0 { deadline = self.deadline(state.pointee.sendTimeout) }
        let error2 = waitToSend(deadline)
        if error2 != 0 { return done > 0 ? done : IOResult.failed(error2).posix }
        return nil
    }

    /// Copies what fits and publishes it. `.wouldBlock`: the ring is full.
    @inline(__always)
    private func putIntoRing(_ vectors: Vectors) -> IOResult {
        let outbox = pointee.outbox.unsafelyUnwrapped
        let offset = state.pointee.send.offset.load(ordering: .relaxed)
        var shape = RingShape(word: state.pointee.send.shape.load(ordering: .relaxed))
        var free = room(shape, offset, state.pointee.send.peerCursor.load(ordering: .relaxed))
        if free < UInt64(truncatingIfNeeded: vectors.remaining) {
            let consumed = consumedByPeer
            guard offset &- consumed <= Limits.smallRing &+ pointee.outboxRing else {
                peerIsHostile()
                return .failed(ECONNRESET)
            }
            state.pointee.send.peerCursor.store(consumed, ordering: .relaxed)
            free = room(shape, offset, consumed)
            if free < UInt64(truncatingIfNeeded: vectors.remaining), !shape.isLarge, consumed >= shape.from {
                shape = use(RingShape(isLarge: true, from: offset))
                free = pointee.outboxRing
            }
        }
        let count = Int(truncatingIfNeeded: min(free, UInt64(truncatingIfNeeded: vectors.remaining)))
        if count == 0 { return .wouldBlock }
        guard vectors.areValid(count, forWriting: false) else { return .failed(EFAULT) }
        Ring(outbox, isLarge: shape.isLarge, large: pointee.outboxRing).withBytes(at: offset, count: count) {
            first, firstCount, second, _ in
            var position = 0
            vectors.forEachRun(count) { source, run in
                let head = max(0, min(run, firstCount &- position))
                if head > 0 { memcpy(first + position, source, head) }
                if run > head { memcpy(second + (position &+ head &- firstCount), source + head, run &- head) }
                position &+= run
            }
        }
        outbox.pointee.processor.store(libc_processor(), ordering: .relaxed)
        let next = offset &+ UInt64(truncatingIfNeeded: count)
        state.pointee.send.offset.store(next, ordering: .relaxed)
        state.pointee.send.calls.store(state.pointee.send.calls.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
        _ = outbox.pointee.produced.exchange(next, ordering: .sequentiallyConsistent)
        pushRing(at: offset, count: count, shape)
        let inbox = pointee.inbox.unsafelyUnwrapped
        wake(inbox.pointee.receiverAsleep, state.pointee.send)
        // A receiver that stopped before these bytes were there: they go again, by TCP.
        if inbox.pointee.wish.load(ordering: .sequentiallyConsistent) != 0 { answerWish() }
        return .done(count)
    }

    /// Free bytes of the ring in use when the peer has taken everything before `consumed`.
    @inline(__always)
    func room(_ shape: RingShape, _ offset: UInt64, _ consumed: UInt64) -> UInt64 {
        let capacity = shape.isLarge ? pointee.outboxRing : Limits.smallRing
        let used = offset &- max(consumed, shape.from)
        return used <= capacity ? capacity &- used : 0
    }

    /// How far the peer has come. Until it has drained TCP it says nothing yet, and stands at the switch-over offset.
    @inline(__always)
    var consumedByPeer: UInt64 {
        max(
            pointee.inbox.unsafelyUnwrapped.pointee.consumed.load(ordering: .acquiring),
            state.pointee.send.switchOver.load(ordering: .relaxed))
    }

    /// The ring that takes the bytes from now on; `produced` publishes it with the first of them. With the lock held.
    func use(_ shape: RingShape) -> RingShape {
        state.pointee.send.shape.store(shape.word, ordering: .relaxed)
        pointee.outbox.unsafelyUnwrapped.pointee.shape.store(shape.word, ordering: .relaxed)
        if shape.isLarge { Reclaim.ringGrew() }
        return shape
    }

    /// Whether the companion has ended; asked of the kernel at most once a millisecond.
    @inline(__always)
    private func isPeerGone() -> Bool {
        let now = libc_ticks()
        if now &- pointee.livenessChecked.load(ordering: .relaxed) > Spin.ticks(microseconds: 1000) {
            pointee.livenessChecked.store(now, ordering: .relaxed)
            lookForCompanionsEnd()
        }
        return state.pointee.isEnded.load(ordering: .relaxed) != 0
    }

    func takePendingError() -> CInt {
        if state.pointee.pendingError.load(ordering: .relaxed) == 0 { return 0 }
        return CInt(bitPattern: state.pointee.pendingError.exchange(0, ordering: .relaxed))
    }
}
