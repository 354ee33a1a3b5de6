import CLibc
import Libc
import SessionState
import Synchronization

/// What poll(2) and epoll(7) would say of a session, from both paths.
enum Readiness {
    /// Guards every list of interests; taken before a set's own lock.
    static let lock = ProcessLock()

    static let input = UInt32(EPOLLIN.rawValue | EPOLLRDNORM.rawValue)
    static let output = UInt32(EPOLLOUT.rawValue | EPOLLWRNORM.rawValue)
    static let readHangup = UInt32(EPOLLRDHUP.rawValue)
    static let always = UInt32(EPOLLERR.rawValue | EPOLLHUP.rawValue)
    static let edge = UInt32(EPOLLET.rawValue)
    static let oneShot = UInt32(EPOLLONESHOT.rawValue)
    static let exclusive = UInt32(EPOLLEXCLUSIVE.rawValue)
    static let priority = UInt32(EPOLLPRI.rawValue)
}

extension UnsafeMutablePointer where Pointee == Session {
    /// Whether the ring, not TCP, says when this direction is ready.
    @inline(__always)
    var receivesOnCompanion: Bool { stage == Session.Stage.attached && state.pointee.receive.onPath == .companion }
    @inline(__always)
    var sendsOnCompanion: Bool { stage == Session.Stage.attached && state.pointee.send.onPath == .companion }
    @inline(__always)
    var usesCompanion: Bool { receivesOnCompanion || sendsOnCompanion }

    /// Ring bytes that recv would return now, as far as SO_RCVLOWAT counts them.
    @inline(__always)
    var ringIsReadable: Bool {
        let available = ringBytes
        return available > 0
            && (available >= state.pointee.lowWater.load(ordering: .relaxed) || intervalHasEnd || hasEnded)
    }

    /// The peer said that it has finished, or its end of the companion is closed: TCP must be asked.
    @inline(__always)
    var hasEnded: Bool {
        state.pointee.isEnded.load(ordering: .relaxed) != 0
            || (pointee.inbox?.pointee.finished.load(ordering: .relaxed) ?? 0) != 0
            || state.pointee.receive.isShut.load(ordering: .relaxed) != 0
            || state.pointee.pendingError.load(ordering: .relaxed) != 0
    }

    /// Readiness in epoll's bits. `askKernel`: the kernel may have something to say beyond what the ring knows.
    func readiness(askKernel: Bool) -> UInt32 {
        let (receives, sends) = (receivesOnCompanion, sendsOnCompanion)
        var bits: UInt32 = 0
        if receives, ringIsReadable { bits |= Readiness.input }
        if sends, maySend { bits |= Readiness.output }
        let isBack = receives && isAtIntervalEnd
        if askKernel || hasEnded || isBack {
            let kernel = kernelReadiness()
            // From another host, bytes may still follow TCP's end: the companion's tells that they have come.
            let mayFollow = receives && pointee.provider.copies
            if kernel & (Readiness.readHangup | Readiness.always) != 0 { lookForTheEnd() }
            if receives, !isBack {
                let ends = mayFollow && !hasEnded ? Readiness.always : Readiness.readHangup | Readiness.always
                bits |= kernel & (ends | Readiness.priority)
                // The end of the stream is readable, once everything before it is.
                if kernel & ends != 0 { bits |= Readiness.input }
            } else {
                bits |= kernel & ~Readiness.output
            }
            if !sends { bits |= kernel & Readiness.output }
            if kernel & Readiness.always != 0 { bits |= kernel & Readiness.output }
        }
        if state.pointee.pendingError.load(ordering: .relaxed) != 0 {
            bits |= Readiness.always | Readiness.input | Readiness.output
        }
        return bits
    }

    /// TCP has seen the peer finish. If the companion has ended as well, the peer is gone, and may have left bytes unread.
    private func lookForTheEnd() {
        distrust()
        if stage == Session.Stage.attached, state.pointee.isEnded.load(ordering: .relaxed) == 0 {
            lookForCompanionsEnd()
        }
    }

    func kernelReadiness() -> UInt32 {
        var entry = pollfd(
            fd: descriptor,
            events: CShort(
                truncatingIfNeeded: Readiness.input | Readiness.output | Readiness.readHangup | Readiness.priority),
            revents: 0)
        return sys_poll(&entry, 1, 0) > 0 ? UInt32(UInt16(bitPattern: entry.revents)) : 0
    }

    /// A path has changed: epoll sets learn where readiness comes from now. With the direction's lock held.
    func pathChanged() { forEachInterest { $0.follow($1) } }

    /// A doorbell was silenced by somebody else: threads asleep in epoll_wait, for whom it may have rung too, look again.
    func tellEpollSets() { forEachInterest { $0.lookAgain($1) } }

    @inline(__always)
    private func forEachInterest(_ body: (EpollSetRef, InterestRef) -> Void) {
        guard pointee.interests != nil else { return }
        Readiness.lock.lock()
        var interest = pointee.interests
        while let candidate = interest {
            body(candidate.pointee.set, candidate)
            interest = candidate.pointee.nextOfSession
        }
        Readiness.lock.unlock()
    }

    func leaveEpollSets() {
        guard pointee.interests != nil else { return }
        Readiness.lock.lock()
        while let interest = pointee.interests { interest.pointee.set.remove(interest) }
        Readiness.lock.unlock()
    }
}
