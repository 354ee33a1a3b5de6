import CLibc
import Libc
import SessionState
import Synchronization
import Wire

/// The receiving direction of a session.
extension UnsafeMutablePointer where Pointee == Session {
    /// One receive call. Returns what the libc call returns, errno set.
    @inline(__always)
    func receive(_ vectors: inout Vectors, _ flags: CInt) -> Int {
        if stage != Session.Stage.attached {
            if let result = receiveBeforeCompanion(&vectors, flags) { return result }
        }
        return receiveAttached(&vectors, flags)
    }

    /// TCP, counted. Nil when the companion arrived meanwhile.
    @inline(never)
    private func receiveBeforeCompanion(_ vectors: inout Vectors, _ flags: CInt) -> Int? {
        if stage != Session.Stage.kernel { lookForCompanion() }
        // Before the second look at the stage: an announcement is accepted only while nobody is in the kernel (tryToAccept).
        state.pointee.receive.inKernel.wrappingAdd(1, ordering: .sequentiallyConsistent)
        defer { state.pointee.receive.inKernel.wrappingSubtract(1, ordering: .sequentiallyConsistent) }
        if pointee.stage.load(ordering: .sequentiallyConsistent) == Session.Stage.attached { return nil }
        return receiveFromKernel(&vectors, .max, flags)
    }

    /// One real receive of at most `limit` bytes, counted unless it only looks.
    func receiveFromKernel(_ vectors: inout Vectors, _ limit: Int, _ flags: CInt) -> Int {
        let received = vectors.receive(descriptor, limit: limit, flags: flags)
        if received > 0, flags & CInt(MSG_PEEK | MSG_OOB | MSG_ERRQUEUE) == 0 {
            countKernel(state.pointee.receive, received)
        } else if received <= 0 {
            distrust()
        }
        return received
    }

    @inline(never)
    private func receiveAttached(_ vectors: inout Vectors, _ flags: CInt) -> Int {
        if flags & CInt(MSG_OOB | MSG_ERRQUEUE) != 0 {
            return vectors.receive(descriptor, limit: .max, flags: flags)
        }
        var done = 0
        var deadline: UInt64 = 0
        let all = flags & CInt(MSG_WAITALL) != 0
        let isLook = flags & CInt(MSG_PEEK) != 0
        while true {
            receiving.lock()
            switch state.pointee.receive.onPath {
            case .kernel:
                if tryToAccept() {
                    receiving.unlock()
                    continue
                }
                state.pointee.receive.inKernel.wrappingAdd(1, ordering: .sequentiallyConsistent)
                receiving.unlock()
                // MSG_WAITALL could wait here for bytes that will travel in the ring: collected round by round instead. A look at
                // bytes (MSG_PEEK) cannot be collected; while it waits, none is accepted.
                let stays = state.pointee.staysOnTCP.load(ordering: .relaxed) != 0
                let received = receiveFromKernel(&vectors, .max, isLook || stays ? flags : flags & ~CInt(MSG_WAITALL))
                state.pointee.receive.inKernel.wrappingSubtract(1, ordering: .sequentiallyConsistent)
                if received > 0, !stays { acceptAfterReceiving() }
                if received <= 0 || !all || isLook || stays {
                    return done > 0 && received < 0 ? done : done &+ received
                }
                done &+= received
                vectors.advance(received)
                if vectors.remaining == 0 { return done }
            case .draining:
                if let outcome = receiveDraining(&vectors, &done, flags) { return outcome }  // unlocks
            case .asking, .returned:
                let isAnswered = isAnswered()
                receiving.unlock()
                if isAnswered { continue }
                if isNonBlocking(flags) || done > 0 { return done > 0 ? done : IOResult.wouldBlock.posix }
                let code = waitForAnswer()
                if code != 0 { return IOResult.failed(code).posix }
            case .companion:
                if let outcome = receiveOnCompanion(&vectors, &done, flags, &deadline) { return outcome }  // unlocks
            }
        }
    }

    /// TCP still holds bytes before the switch-over offset: takes no more than those. Called with the lock, returns without.
    private func receiveDraining(_ vectors: inout Vectors, _ done: inout Int, _ flags: CInt) -> Int? {
        let left = bytesBeforeRing
        if left == 0 {
            finishDraining()
            receiving.unlock()
            return nil
        }
        if dropCancelled() {
            receiving.unlock()
            return nil
        }
        // One thread at a time, so that none is left in the kernel when the last of these bytes are gone. They are on their
        // way: the sender announced the offset with the call that sends them.
        guard state.pointee.receive.inKernel.load(ordering: .sequentiallyConsistent) == 0 else {
            receiving.unlock()
            sched_yield()
            return nil
        }
        state.pointee.receive.inKernel.wrappingAdd(1, ordering: .sequentiallyConsistent)
        receiving.unlock()
        let limit = Int(truncatingIfNeeded: min(left, UInt64(Int.max)))
        let received = receiveFromKernel(&vectors, limit, flags & ~CInt(MSG_WAITALL))
        state.pointee.receive.inKernel.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        if received <= 0 { return done > 0 && received < 0 ? done : done &+ received }
        if flags & CInt(MSG_PEEK) != 0 {
            guard UInt64(received) == left, vectors.remaining > received else { return received }
            var rest = vectors
            rest.advance(received)
            return received &+ lookBeyond(&rest, from: left, flags)
        }
        done &+= received
        vectors.advance(received)
        // What the ring holds beyond these bytes belongs to the same call, as one queue would give it.
        if UInt64(received) == left { acceptAfterReceiving() } else if flags & CInt(MSG_WAITALL) == 0 { return done }
        return vectors.remaining > 0 ? nil : done
    }

    /// Takes bytes from the ring; nil: go round again. Called with the lock, returns without.
    @inline(__always)
    private func receiveOnCompanion(
        _ vectors: inout Vectors, _ done: inout Int, _ flags: CInt, _ deadline: inout UInt64
    ) -> Int? {
        let inbox = pointee.inbox.unsafelyUnwrapped
        let offset = state.pointee.receive.offset.load(ordering: .relaxed)
        let available = ringBytes
        if available == 0 {
            if returnIfDrained() {
                receiving.unlock()
                // What TCP has beyond the ring comes with this call only if it need not wait for it.
                return done > 0 && flags & CInt(MSG_WAITALL) == 0 ? done : nil
            }
            receiving.unlock()
            return receiveNothingYet(&vectors, &done, flags, &deadline)
        }
        if vectors.remaining == 0 {
            receiving.unlock()
            return done
        }
        if available < state.pointee.lowWater.load(ordering: .relaxed),
            mustWait(forMoreThan: available, vectors.remaining, done, flags)
        {
            receiving.unlock()
            if deadline == 0 { deadline = self.deadline(state.pointee.receiveTimeout) }
            let code = waitToReceive(deadline)
            // socket(7): what there is, when the time is up.
            return code == EINTR ? IOResult.failed(code).posix : code == 0 ? nil : receiveWhatIsThere(&vectors, flags)
        }
        guard available <= Limits.smallRing &+ pointee.inboxRing else {
            peerIsHostile()
            receiving.unlock()
            return done > 0 ? done : IOResult.failed(ECONNRESET).posix
        }
        let (ring, most) = ringHolding(offset, available)
        let count = Int(truncatingIfNeeded: min(most, UInt64(truncatingIfNeeded: vectors.remaining)))
        if flags & CInt(MSG_PEEK) != 0 {
            receiving.unlock()
            return look(&vectors, flags, &deadline)
        }
        // tcp(7): MSG_TRUNC discards bytes instead of copying them.
        if flags & CInt(MSG_TRUNC) == 0 {
            guard vectors.areValid(count, forWriting: true) else {
                receiving.unlock()
                return done > 0 ? done : IOResult.failed(EFAULT).posix
            }
            takeFromRing(vectors, count, offset, ring)
        }
        consumed(offset &+ UInt64(truncatingIfNeeded: count))
        receiving.unlock()
        done &+= count
        vectors.advance(count)
        // A short count only if there is no more: the next bytes may be in the other ring.
        if vectors.remaining == 0 || (flags & CInt(MSG_WAITALL) == 0 && UInt64(truncatingIfNeeded: count) == available)
        {
            return done
        }
        return nil
    }

    /// SO_RCVLOWAT: a blocking call waits for that many bytes, or as many as it asks for, unless no more will come.
    @inline(never)
    private func mustWait(forMoreThan available: UInt64, _ wanted: Int, _ done: Int, _ flags: CInt) -> Bool {
        done == 0 && available < UInt64(truncatingIfNeeded: wanted) && !hasEnded && !isNonBlocking(flags)
            && !intervalHasEnd
    }

    private func receiveWhatIsThere(_ vectors: inout Vectors, _ flags: CInt) -> Int {
        receiveAttached(&vectors, flags & ~CInt(MSG_WAITALL) | CInt(MSG_DONTWAIT))
    }

    /// The ring that holds the byte at `offset`, and how many of the `available` bytes it holds from there on. Whatever the peer
    /// wrote, the result lies within the mapped memory.
    @inline(__always)
    private func ringHolding(_ offset: UInt64, _ available: UInt64) -> (Ring, UInt64) {
        let inbox = pointee.inbox.unsafelyUnwrapped
        let shape = RingShape(word: inbox.pointee.shape.load(ordering: .relaxed))
        let isBefore = offset < shape.from
        let ring = Ring(inbox, isLarge: shape.isLarge != isBefore, large: pointee.inboxRing)
        return (ring, min(min(available, isBefore ? shape.from &- offset : available), ring.capacity))
    }

    /// MSG_PEEK on the ring; with MSG_WAITALL it waits, as TCP does, until all is there or no more will come. Nil: go round again.
    private func look(_ vectors: inout Vectors, _ flags: CInt, _ deadline: inout UInt64) -> Int? {
        let available = ringBytes
        let isAll = flags & CInt(MSG_WAITALL) != 0 && !isNonBlocking(flags) && !intervalHasEnd && !hasEnded
        if isAll, available < UInt64(truncatingIfNeeded: vectors.remaining), available < pointee.inboxRing / 2 {
            if deadline == 0 { deadline = self.deadline(state.pointee.receiveTimeout) }
            let code = wait(forMoreThan: available, deadline)
            if code == 0 { return nil }
            if code == EINTR, available == 0 { return IOResult.failed(code).posix }
        }
        var list = vectors
        let seen = lookBeyond(&list, from: 0, flags)
        return seen == 0 ? nil : seen
    }

    /// Copies ring bytes that begin `ahead` bytes after the receive offset, from both rings if they lie in both; removes nothing.
    private func lookBeyond(_ vectors: inout Vectors, from ahead: UInt64, _ flags: CInt) -> Int {
        receiving.lock()
        defer { receiving.unlock() }
        let inbox = pointee.inbox.unsafelyUnwrapped
        var offset = state.pointee.receive.offset.load(ordering: .relaxed) &+ ahead
        let end = inbox.pointee.produced.load(ordering: .acquiring)
        var done = 0
        while end &- offset > 0, end &- offset <= Limits.smallRing &+ pointee.inboxRing, vectors.remaining > 0 {
            let (ring, most) = ringHolding(offset, end &- offset)
            let count = Int(truncatingIfNeeded: min(most, UInt64(truncatingIfNeeded: vectors.remaining)))
            if flags & CInt(MSG_TRUNC) == 0 {
                guard vectors.areValid(count, forWriting: true) else {
                    return done > 0 ? done : IOResult.failed(EFAULT).posix
                }
                takeFromRing(vectors, count, offset, ring)
            }
            vectors.advance(count)
            offset &+= UInt64(truncatingIfNeeded: count)
            done &+= count
        }
        return done
    }

    @inline(__always)
    private func takeFromRing(_ vectors: Vectors, _ count: Int, _ offset: UInt64, _ ring: Ring) {
        ring.withBytes(at: offset, count: count) { first, firstCount, second, _ in
            var position = 0
            vectors.forEachRun(count) { target, run in
                let head = max(0, min(run, firstCount &- position))
                if head > 0 { memcpy(target, first + position, head) }
                if run > head { memcpy(target + head, second + (position &+ head &- firstCount), run &- head) }
                position &+= run
            }
        }
    }

    /// Publishes that everything before `offset` is taken, and wakes a sender that waited for the space.
    @inline(__always)
    func consumed(_ offset: UInt64) {
        state.pointee.receive.offset.store(offset, ordering: .relaxed)
        state.pointee.receive.calls.store(state.pointee.receive.calls.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
        _ = pointee.outbox.unsafelyUnwrapped.pointee.consumed.exchange(offset, ordering: .sequentiallyConsistent)
        pushCredit(offset)
        let inbox = pointee.inbox.unsafelyUnwrapped
        if inbox.pointee.senderAsleep.load(ordering: .sequentiallyConsistent) != 0 {
            let used = inbox.pointee.produced.load(ordering: .relaxed) &- offset
            if used &* 3 <= pointee.inboxRing &* 2 { wake(inbox.pointee.senderAsleep, state.pointee.receive) }
        }
    }

    /// The ring is empty and not ended. Returns the call's result, or nil after a wait.
    private func receiveNothingYet(_ vectors: inout Vectors, _ done: inout Int, _ flags: CInt, _ deadline: inout UInt64)
        -> Int?
    {
        // A recv of nothing waits like any other; only what has something to show returns.
        if done > 0, flags & CInt(MSG_WAITALL) == 0 || vectors.remaining == 0 { return done }
        let error = takePendingError()
        if error != 0 { return done > 0 ? done : IOResult.failed(error).posix }
        let inbox = pointee.inbox.unsafelyUnwrapped
        if inbox.pointee.finished.load(ordering: .acquiring) != 0
            || state.pointee.isEnded.load(ordering: .acquiring) != 0
            || state.pointee.receive.isShut.load(ordering: .relaxed) != 0
        {
            // Bytes published before the peer's FIN are visible by now: look once more, then TCP tells how it ended.
            if ringBytes > 0 || hasReturned() { return nil }
            if done > 0 { return done }
            if showsReset() { return IOResult.failed(ECONNRESET).posix }
            return receiveFromKernel(&vectors, .max, flags)
        }
        if isDistrusted, !pointee.provider.copies, kernelReadiness() & (Readiness.readHangup | Readiness.always) != 0 {
            // TCP has the end, whatever the companion says. Bytes published before it are visible by now, in memory that is the
            // peer's as well; bytes from another host follow, and the companion's end after them.
            if ringBytes > 0 || hasReturned() { return nil }
            let received = receiveFromKernel(&vectors, .max, flags | CInt(MSG_DONTWAIT))
            return done > 0 && received < 0 ? done : done &+ received
        }
        if isNonBlocking(flags) { return done > 0 ? done : IOResult.wouldBlock.posix }
        if deadline == 0 { deadline = self.deadline(state.pointee.receiveTimeout) }
        let code = waitToReceive(deadline)
        if code != 0 { return done > 0 ? done : IOResult.failed(code).posix }
        return nil
    }

    /// A peer that died with my bytes unread: TCP would have sent a reset, and shows ECONNRESET once.
    private func showsReset() -> Bool {
        guard state.pointee.isEnded.load(ordering: .relaxed) != 0, state.pointee.send.onPath == .companion,
            pointee.inbox != nil,
            consumedByPeer != state.pointee.send.offset.load(ordering: .relaxed),
            // A reset that TCP has seen is TCP's to tell; a peer that called exec has not gone.
            kernelState != CInt(TCP_CLOSE), !peerIsOpen
        else { return false }
        // Once: from here on the sender is back on TCP, which the peer's end has closed.
        sending.lock()
        let wasCompanion = state.pointee.send.onPath == .companion
        if wasCompanion { leaveLocked(.companionEnded) }
        sending.unlock()
        return wasCompanion
    }
}
