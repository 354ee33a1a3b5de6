import CLibc
import Libc
import SessionState
import Synchronization

/// The kernel's half of a set: which entries of ours it holds, and waking those who sleep on it.
extension UnsafeMutablePointer where Pointee == EpollSet {
    /// The instance that holds our entries: the program's own, or the annex once somebody watches it.
    var ours: CInt {
        let annex = pointee.annex.load(ordering: .relaxed)
        return annex >= 0 ? annex : pointee.fd
    }

    /// Brings the kernel's entry in line with the paths: each direction is watched where its bytes travel. With
    /// `Readiness.lock` held.
    func follow(_ interest: InterestRef) {
        let before = pointee.followed.load(ordering: .relaxed)
        pointee.lock.lock()
        if interest.pointee.session.usesCompanion || (interest.pointee.isFollowed && interest.isOver) {
            place(interest)
        } else if interest.pointee.isFollowed {
            restore(interest)
        }
        pointee.lock.unlock()
        followedChanged(from: before)
    }

    private func place(_ interest: InterestRef) {
        let isFirst = !interest.pointee.isFollowed
        // First of all: whom our entries wake must see that it is for us to judge.
        if isFirst { pointee.followed.wrappingAdd(1, ordering: .sequentiallyConsistent) }
        if isFirst, interest.pointee.events & Readiness.oneShot != 0 {
            interest.pointee.isDisabled = KernelEntry.hasFired(interest.pointee.fd, in: pointee.fd)
        }
        var event = libc_epoll_event(
            kernelEvents(interest.pointee.session), interest.data(EventTag.socket))
        // epoll_ctl(2): an exclusive entry cannot be modified.
        if isFirst, interest.pointee.events & Readiness.exclusive != 0 || ours != pointee.fd {
            _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_DEL, interest.pointee.fd, nil)
            _ = sys_epoll_ctl(ours, EPOLL_CTL_ADD, interest.pointee.fd, &event)
        } else {
            _ = sys_epoll_ctl(ours, EPOLL_CTL_MOD, interest.pointee.fd, &event)
        }
        if isFirst {
            interest.pointee.isFollowed = true
            interest.forgetNews()
            watchDoorbell(interest, EPOLL_CTL_ADD)
        }
        if !isFirst, interest.isOver {
            // The kernel's answer to the change of its entry is no edge.
            interest.pointee.isAhead = true
        } else {
            interest.pointee.hasEdge = true
        }
        interest.pointee.askKernel = true
        if !interest.pointee.isParked { heat(interest) }
        rouse()
    }

    private func watchDoorbell(_ interest: InterestRef, _ operation: CInt) {
        var bell = libc_epoll_event(UInt32(EPOLLIN.rawValue) | Readiness.edge, interest.data(EventTag.doorbell))
        _ = sys_epoll_ctl(ours, operation, interest.pointee.session.pointee.doorbell, &bell)
    }

    /// Edge-triggered and complete: an edge makes us ask, and what the program wants is sorted out on our side.
    private func kernelEvents(_ session: SessionRef) -> UInt32 {
        Readiness.edge | Readiness.readHangup | Readiness.priority | (session.receivesOnCompanion ? 0 : Readiness.input)
            | (session.sendsOnCompanion ? 0 : Readiness.output)
    }

    /// Both directions are on TCP again: the kernel serves the entry alone.
    private func restore(_ interest: InterestRef) {
        defer { unfollow(interest) }
        cool(interest)
        let isElsewhere = ours != pointee.fd
        if interest.pointee.isParked || isElsewhere {
            _ = sys_epoll_ctl(ours, EPOLL_CTL_DEL, interest.pointee.fd, nil)
        }
        // Taken out meanwhile; its memory goes with the session.
        if interest.pointee.isParked { return }
        var event = libc_epoll_event(
            interest.pointee.isDisabled ? Readiness.oneShot : interest.pointee.events & ~Readiness.exclusive,
            interest.pointee.data)
        _ = sys_epoll_ctl(pointee.fd, isElsewhere ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, interest.pointee.fd, &event)
    }

    /// With both locks held.
    func unfollow(_ interest: InterestRef) {
        interest.pointee.isFollowed = false
        pointee.followed.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        var other = interest.pointee.session.pointee.interests
        while let candidate = other {
            if candidate != interest, candidate.pointee.set == self, candidate.pointee.isFollowed {
                // Another descriptor of the same session in this set: the doorbell is its, from now on.
                return watchDoorbell(candidate, EPOLL_CTL_MOD)
            }
            other = candidate.pointee.nextOfSession
        }
        _ = sys_epoll_ctl(ours, EPOLL_CTL_DEL, interest.pointee.session.pointee.doorbell, nil)
    }

    /// The entry leaves the program's instance for the annex, which has just been made. With `Readiness.lock` held.
    func move(_ interest: InterestRef) {
        pointee.lock.lock()
        var event = libc_epoll_event(kernelEvents(interest.pointee.session), interest.data(EventTag.socket))
        _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_DEL, interest.pointee.fd, nil)
        _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_DEL, interest.pointee.session.pointee.doorbell, nil)
        _ = sys_epoll_ctl(ours, EPOLL_CTL_ADD, interest.pointee.fd, &event)
        watchDoorbell(interest, EPOLL_CTL_ADD)
        // What the kernel had to say was perhaps not fetched yet.
        interest.pointee.askKernel = true
        if !interest.pointee.isParked { heat(interest) }
        pointee.lock.unlock()
    }

    // MARK: Numbers that the program takes (GivingWay.swift)

    /// -1: the kick goes, if no session of its set needs it.
    static func renumberKick(_ number: CInt, _ new: CInt) -> Bool {
        for fd in 0..<DescriptorTable.end {
            guard let set = DescriptorTable.slot(fd).epollSet, set.pointee.kick == number else { continue }
            set.pointee.lock.lock()
            defer { set.pointee.lock.unlock() }
            guard set.pointee.kick == number, new >= 0 || set.pointee.followed.load(ordering: .relaxed) == 0 else {
                return false
            }
            var event = libc_epoll_event(UInt32(EPOLLIN.rawValue), EntryPool.data(EventTag.kick))
            _ = sys_epoll_ctl(set.pointee.fd, EPOLL_CTL_DEL, number, nil)
            if new >= 0 { _ = sys_epoll_ctl(set.pointee.fd, EPOLL_CTL_ADD, new, &event) }
            set.pointee.kick = new
            return true
        }
        return false
    }

    /// The doorbell of a followed session has another number. With `Readiness.lock` held.
    func renumberDoorbell(_ interest: InterestRef, _ number: CInt, _ new: CInt) {
        pointee.lock.lock()
        var bell = libc_epoll_event(UInt32(EPOLLIN.rawValue) | Readiness.edge, interest.data(EventTag.doorbell))
        _ = sys_epoll_ctl(ours, EPOLL_CTL_DEL, number, nil)
        _ = sys_epoll_ctl(ours, EPOLL_CTL_ADD, new, &bell)
        pointee.lock.unlock()
    }

    // MARK: Waking those who sleep in the kernel

    /// Wakes everybody who sleeps on the set, also those who came when the kernel alone served it. With `Readiness.lock` held.
    func raise() {
        if pointee.kick < 0 {
            pointee.kick = EpollSetRef.hiddenEvent()
            guard pointee.kick >= 0 else { return }
            var event = libc_epoll_event(UInt32(EPOLLIN.rawValue), EntryPool.data(EventTag.kick))
            _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_ADD, pointee.kick, &event)
        }
        pointee.isRaised = true
        EpollSetRef.signal(pointee.kick)
    }

    func lower() {
        pointee.isRaised = false
        silenceKick()
    }

    func silenceKick() {
        var count: UInt64 = 0
        _ = sys_read(pointee.kick, &count, 8)
    }

    /// Something became ready that sleeping threads cannot know of. With the set's lock held.
    func rouse() {
        if pointee.annex.load(ordering: .relaxed) >= 0 {
            // Who sleeps above is not known here; and the kick may say only what is true.
            EpollSetRef.signal(pointee.nudge)
        } else if pointee.sleepers.load(ordering: .sequentiallyConsistent) > 0 {
            EpollSetRef.signal(pointee.kick)
        }
    }

    static func hiddenEvent() -> CInt {
        let fd = sys_eventfd()
        return fd < 0 ? -1 : HiddenDescriptors.place(CInt(fd))
    }

    static func signal(_ event: CInt) {
        var one: UInt64 = 1
        if event >= 0 { _ = sys_write(event, &one, 8) }
    }
}
