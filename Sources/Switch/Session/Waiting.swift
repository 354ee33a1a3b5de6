import CLibc
import CProvider
import Libc
import SessionState
import Synchronization

/// Sleeping on a companion. Spin, arm, look again, sleep; the waker makes a system call only if it finds the armed flag.
extension UnsafeMutablePointer where Pointee == Session {
    /// Enough bytes to take (SO_RCVLOWAT), the end of the ring, or a peer that has finished or gone.
    @inline(__always)
    var mayReceive: Bool {
        guard let inbox = pointee.inbox else { return true }
        return ringBytes >= state.pointee.lowWater.load(ordering: .relaxed)
            || isAtIntervalEnd
            || inbox.pointee.finished.load(ordering: .relaxed) != 0
            || state.pointee.isEnded.load(ordering: .relaxed) != 0
            || state.pointee.receive.isShut.load(ordering: .relaxed) != 0
    }

    /// Bytes in the ring that have not been taken; what lies behind is none, whatever the peer wrote.
    @inline(__always)
    var ringBytes: UInt64 {
        guard let inbox = pointee.inbox else { return 0 }
        let distance =
            inbox.pointee.produced.load(ordering: .acquiring) &- state.pointee.receive.offset.load(ordering: .relaxed)
        return Int64(bitPattern: distance) > 0 ? distance : 0
    }

    /// Enough of the ring is free for a sleeping writer, by the kernel's rule of thumb (a third); or nothing will ever be.
    @inline(__always)
    var maySend: Bool {
        guard let inbox = pointee.inbox else { return true }
        let offset = state.pointee.send.offset.load(ordering: .relaxed)
        let consumed = consumedByPeer
        let shape = RingShape(word: state.pointee.send.shape.load(ordering: .relaxed))
        // A small ring that is full can be left for the large one at any time.
        return (shape.isLarge ? room(shape, offset, consumed) >= pointee.outboxRing / 3 : consumed >= shape.from)
            || state.pointee.isEnded.load(ordering: .relaxed) != 0
            || state.pointee.send.isShut.load(ordering: .relaxed) != 0
            || wishIsOpen(Turn(word: inbox.pointee.wish.load(ordering: .relaxed)))
    }

    /// Whether looking may help: the peer, as far as known, runs on another processor.
    @inline(__always)
    var maySpin: Bool {
        guard let inbox = pointee.inbox else { return false }
        return inbox.pointee.processor.load(ordering: .relaxed) != libc_processor()
    }

    /// Asks the peer for a doorbell when there is something to receive. The caller looks once more before it sleeps.
    @inline(__always)
    func armReceiver() {
        _ = pointee.outbox?.pointee.receiverAsleep.exchange(1, ordering: .sequentiallyConsistent)
        pushBeforeSleep()
    }

    @inline(__always)
    func armSender() {
        _ = pointee.outbox?.pointee.senderAsleep.exchange(1, ordering: .sequentiallyConsistent)
        pushBeforeSleep()
    }

    /// Waits until there is something to receive. 0, or the errno to fail with (EINTR, EAGAIN after `deadline`).
    func waitToReceive(_ deadline: UInt64) -> CInt {
        if mayReceive { return 0 }
        if maySpin, Spin.until({ mayReceive }) { return 0 }
        return sleep(deadline, arm: armReceiver, state.pointee.receive) { mayReceive }
    }

    /// Waits until there is more to look at than `seen` bytes.
    func wait(forMoreThan seen: UInt64, _ deadline: UInt64) -> CInt {
        func isMore() -> Bool { ringBytes > seen || isAtIntervalEnd || hasEnded }
        if maySpin, Spin.until({ isMore() }) { return 0 }
        return sleep(deadline, arm: armReceiver, state.pointee.receive) { isMore() }
    }

    func waitToSend(_ deadline: UInt64) -> CInt {
        if maySend { return 0 }
        if maySpin, Spin.until({ maySend }) { return 0 }
        return sleep(deadline, arm: armSender, state.pointee.send) { maySend }
    }

    /// Sleeps until the doorbell, a signal or `deadline` (nanoseconds, 0 for none). Spurious returns are allowed.
    private func sleep(
        _ deadline: UInt64, arm: () -> Void, _ direction: borrowing DirectionState, _ condition: () -> Bool
    ) -> CInt {
        let begin = libc_ticks()
        // A sleeper before the flag that it sleeps for: nobody else takes the doorbell that answers it.
        let others = state.pointee.sleepers.wrappingAdd(1, ordering: .sequentiallyConsistent).oldValue
        defer { state.pointee.sleepers.wrappingSubtract(1, ordering: .sequentiallyConsistent) }
        arm()
        if condition() { return 0 }
        direction.sleeps.wrappingAdd(1, ordering: .relaxed)
        if deadline == 0, others == 0, pointee.interests == nil {
            // Restarted or interrupted by signals exactly as recv(2) on the TCP socket would be.
            let result = pointee.provider.waitDoorbell(pointee.companion)
            silenceDoorbell()
            tellEpollSets()
            Spin.learn(slept: libc_ticks() &- begin)
            return result == -EINTR && !condition() ? EINTR : 0
        }
        // With a time limit recv(2) is never restarted, and poll(2) never is. A second sleeper, or one beside an epoll set, cannot rely on
        // the doorbell, which the other may silence for it: it looks every millisecond.
        let now = libc_nanoseconds()
        if deadline != 0, now >= deadline { return EAGAIN }
        var nanoseconds = deadline == 0 ? UInt64.max : deadline &- now
        let isAlone = others == 0 && pointee.interests == nil
        if !isAlone { nanoseconds = min(nanoseconds, 1_000_000) }
        var entry = pollfd(fd: pointee.doorbell, events: CShort(POLLIN), revents: 0)
        var timeout = timespec(tv_sec: Int(nanoseconds / 1_000_000_000), tv_nsec: Int(nanoseconds % 1_000_000_000))
        let result = sys_ppoll(&entry, 1, &timeout, nil)
        if result > 0, isAlone { silenceDoorbell() }
        if result == -Int(EINTR), !condition() { return EINTR }
        if result == 0, isAlone, !condition() { return EAGAIN }
        return 0
    }

    /// Takes the doorbells that have arrived, and notes the companion's end.
    func silenceDoorbell() {
        if pointee.provider.silenceDoorbell(pointee.companion) == -EPIPE { providerSaysEnd() }
    }

    func ringDoorbell() {
        if pointee.provider.ringDoorbell(pointee.companion) == -EPIPE { providerSaysEnd() }
    }

    /// Where the peer's memory is this process's too, the kernel is asked as well: to take a peer for gone that reads on would give it
    /// bytes twice.
    private func providerSaysEnd() { pointee.provider.copies ? companionHasEnded() : lookForCompanionsEnd() }

    /// Notes the companion's end without taking a doorbell, which may be for somebody who is about to sleep.
    func lookForCompanionsEnd() {
        if pointee.provider.copies {
            if pointee.provider.silenceDoorbell(pointee.companion) == -EPIPE { companionHasEnded() }
            return
        }
        var entry = pollfd(fd: pointee.doorbell, events: CShort(POLLRDHUP), revents: 0)
        if sys_poll(&entry, 1, 0) > 0 { companionHasEnded() }
    }

    /// The peer's end of the companion is closed: it closed the connection, called exec, or died. TCP knows which.
    func companionHasEnded() {
        guard state.pointee.isEnded.exchange(1, ordering: .acquiringAndReleasing) == 0 else { return }
        log("companion ended", descriptor)
        if pointee.provider.copies, mayHaveLostBytes { return reset(.companionEnded) }
        // A peer that asked to return to TCP lives on there, and is sent what it did not take.
        guard pointee.inbox?.pointee.wish.load(ordering: .acquiring) == 0 else { return }
        // Bytes that the peer will never read: TCP would have met its reset. One byte that nobody reads either makes the kernel
        // meet it, so that every call and every poll shows what TCP shows: EPIPE after a close. Killed with bytes unread, the
        // peer's kernel would have sent the reset in place of a FIN, and that shows as ECONNRESET.
        guard sendsOnCompanion, consumedByPeer != state.pointee.send.offset.load(ordering: .relaxed),
            kernelState == CInt(TCP_CLOSE_WAIT)
        else { return }
        var byte: UInt8 = 0
        _ = sys_send(descriptor, &byte, 1, CInt(MSG_DONTWAIT | MSG_NOSIGNAL))
        guard pointee.inbox?.pointee.finished.load(ordering: .acquiring) == 0 else { return }
        var error: CInt = 0
        var length = socklen_t(4)
        _ = sys_getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &length)
        state.pointee.pendingError.store(UInt32(ECONNRESET), ordering: .releasing)
    }

    /// Memory that is copied: the companion went without a word from its peer, which then neither closed nor asked to return to TCP. What
    /// it had sent may not have come, and how far it has taken what it was sent nobody knows.
    private var mayHaveLostBytes: Bool {
        guard usesCompanion, let inbox = pointee.inbox else { return false }
        return inbox.pointee.finished.load(ordering: .acquiring) == 0
            && inbox.pointee.wish.load(ordering: .acquiring) == 0
    }

    /// The kernel has said something about the peer's end: the next send asks again whether the companion lives.
    @inline(__always)
    func distrust() { pointee.livenessChecked.store(0, ordering: .relaxed) }

    @inline(__always)
    var isDistrusted: Bool { pointee.livenessChecked.load(ordering: .relaxed) == 0 }

    /// Rings if the peer sleeps. After the store that it sleeps for; that store is a full barrier (exchange).
    @inline(__always)
    func wake(_ flag: borrowing Atomic<UInt32>, _ direction: borrowing DirectionState) {
        if flag.load(ordering: .sequentiallyConsistent) != 0 { ring(flag, direction) }
    }

    @inline(never)
    private func ring(_ flag: borrowing Atomic<UInt32>, _ direction: borrowing DirectionState) {
        guard flag.exchange(0, ordering: .sequentiallyConsistent) != 0 else { return }
        direction.doorbells.wrappingAdd(1, ordering: .relaxed)
        ringDoorbell()
    }

    /// The moment at which a wait that starts now fails with EAGAIN; 0 for never.
    func deadline(_ timeout: borrowing Atomic<UInt64>) -> UInt64 {
        let nanoseconds = timeout.load(ordering: .relaxed)
        return nanoseconds == 0 ? 0 : libc_nanoseconds() &+ nanoseconds
    }

    /// Whether a call with `flags` must not wait.
    @inline(__always)
    func isNonBlocking(_ flags: CInt) -> Bool {
        flags & CInt(MSG_DONTWAIT) != 0 || state.pointee.isNonBlocking.load(ordering: .relaxed) != 0
    }
}
