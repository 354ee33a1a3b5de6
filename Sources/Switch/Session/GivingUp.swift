import CLibc
import CProvider
import Libc
import SessionState
import Synchronization

// A session whose descriptor the program needs: it learns a new number, or goes on by TCP without a companion.

extension UnsafeMutablePointer where Pointee == Session {
    /// The companion's descriptor is open as `new` as well, and is that from now on.
    func renumber(_ number: CInt, _ new: CInt) -> HiddenDescriptors.Answer {
        Readiness.lock.lock()
        defer { Readiness.lock.unlock() }
        lockSetup()
        defer { pointee.setup.store(0, ordering: .releasing) }
        guard stage != Session.Stage.looking, pointee.companion != 0 else { return .notMine }
        let isDoorbell = pointee.doorbell == number
        if isDoorbell { forEachFollower { $0.renumberDoorbell($1, number, new) } }
        guard tellProvider(number, new) else {
            if isDoorbell { forEachFollower { $0.renumberDoorbell($1, new, number) } }
            return .notMine
        }
        if isDoorbell {
            Broker.follow(self, number, as: new)
            pointee.doorbell = new
        }
        return isDoorbell && state.pointee.sleepers.load(ordering: .sequentiallyConsistent) > 0
            ? .doneWithSleepers : .done
    }

    /// Whether the companion's descriptor has this number.
    func ownsDescriptor(_ number: CInt) -> Bool {
        lockSetup()
        defer { pointee.setup.store(0, ordering: .releasing) }
        return stage != Session.Stage.looking && pointee.companion != 0
            && pointee.provider.eventDescriptor(pointee.companion) == number
    }

    /// Goes on by TCP, and closes the companion's descriptor if its number is less than `end`. False: it has none there, or
    /// the peer gave no answer.
    func giveUpCompanion(below end: CInt) -> Bool {
        lockSetup()
        let companion = stage == Session.Stage.looking ? 0 : pointee.companion
        let number = companion == 0 ? -1 : pointee.provider.eventDescriptor(companion)
        guard number >= 0, number < end else {
            pointee.setup.store(0, ordering: .releasing)
            return false
        }
        if stage == Session.Stage.pending {
            Broker.withdraw(self)
            releaseCompanion()
            stayOnKernel(.descriptorsExhausted)
            pointee.setup.store(0, ordering: .releasing)
            return true
        }
        pointee.setup.store(0, ordering: .releasing)
        guard stage == Session.Stage.attached, leaveForGood(), wakeSleepers() else { return false }
        Readiness.lock.lock()
        defer { Readiness.lock.unlock() }
        guard tellProvider(number, -1) else { return false }
        Broker.follow(self, number, as: -1)
        pointee.doorbell = -1
        HiddenDescriptors.close(number)
        log("companion given up", descriptor, UInt64(Reason.descriptorsExhausted.rawValue))
        return true
    }

    /// Both directions on TCP, and nothing to send again. The peer reads what is in its ring, and asks TCP.
    private func leaveForGood() -> Bool {
        returnToKernel(.descriptorsExhausted)
        sending.lock()
        let isSent = hasSentAgain()
        sending.unlock()
        return isSent && !usesCompanion && state.pointee.receive.onPath == .kernel
    }

    /// Threads asleep on the companion go on by TCP. False: a forked relative's threads, who need it, are among them.
    private func wakeSleepers() -> Bool {
        for _ in 0..<100 {
            if state.pointee.sleepers.load(ordering: .sequentiallyConsistent) == 0 { return true }
            if state.liveHolders > 1 { return false }
            pointee.provider.interrupt(pointee.companion)
            HiddenDescriptors.pause(milliseconds: 1)
        }
        return false
    }

    private func tellProvider(_ number: CInt, _ new: CInt) -> Bool {
        pointee.provider.renumber(pointee.companion, number, new)
    }

    /// Held for moments only, and never while waiting for another lock.
    private func lockSetup() {
        while !pointee.setup.compareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged { sched_yield() }
    }

    private func forEachFollower(_ body: (EpollSetRef, InterestRef) -> Void) {
        var interest = pointee.interests
        while let candidate = interest {
            if candidate.pointee.isFollowed { body(candidate.pointee.set, candidate) }
            interest = candidate.pointee.nextOfSession
        }
    }
}
