import CLibc
import Libc
import Synchronization

/// An epoll set within another, as the program put it there. All of this is under `Readiness.lock`.
///
/// The kernel knows when an inner set is ready, but for its sessions; so as soon as a set with sessions is watched, two things
/// change. Our own entries leave it for a hidden instance, its annex, for they say "look" and would read as "ready". And its
/// kick, an eventfd in the program's instance, is readable exactly while a session of the set is ready, and written again for
/// each new edge: level, edge and one-shot entries of the outer sets are then the kernel's work, at any depth.
///
/// The kick is brought up to date by whoever looks (`settle`). Threads asleep above are woken by the annex: the outer set's own
/// entries hold the inner set's annex, so that the instances of ours mirror the program's.
struct Nest {
    var outer: EpollSetRef
    var inner: EpollSetRef
    /// The number under which the program put it in.
    var fd: CInt
    /// As the program gave them. The kernel's entry has a tag of ours as data.
    var events: UInt32
    var data: UInt64
    /// False once it is taken out: late events mean nothing.
    var isIn = true
    /// Sessions at some depth of the inner set are on companions; counted in the outer's `followed`.
    var isFollowed = false
    /// The outer's entries hold the inner's annex.
    var holdsAnnex = false
    var nextOfOuter: NestRef?
    var nextOfInner: NestRef?
}

typealias NestRef = UnsafeMutablePointer<Nest>

extension UnsafeMutablePointer where Pointee == Nest {
    static func find(_ outer: EpollSetRef, _ inner: EpollSetRef, _ fd: CInt) -> NestRef? {
        var nest = outer.pointee.inner
        while let candidate = nest {
            if candidate.pointee.inner == inner, candidate.pointee.fd == fd { return candidate }
            nest = candidate.pointee.nextOfOuter
        }
        return nil
    }

    /// The kernel has taken the entry.
    func enter() {
        let (outer, inner) = (pointee.outer, pointee.inner)
        pointee.nextOfOuter = outer.pointee.inner
        outer.pointee.inner = self
        pointee.nextOfInner = inner.pointee.outers
        inner.pointee.outers = self
        if inner.isFollowed { follow() }
    }

    /// Taken out by the program; or `closing`: one of the two sets is gone.
    func drop(closing: Bool) {
        let (outer, inner) = (pointee.outer, pointee.inner)
        if outer.pointee.inner == self {
            outer.pointee.inner = pointee.nextOfOuter
        } else {
            var previous = outer.pointee.inner
            while let candidate = previous, candidate.pointee.nextOfOuter != self {
                previous = candidate.pointee.nextOfOuter
            }
            previous?.pointee.nextOfOuter = pointee.nextOfOuter
        }
        if inner.pointee.outers == self {
            inner.pointee.outers = pointee.nextOfInner
        } else {
            var previous = inner.pointee.outers
            while let candidate = previous, candidate.pointee.nextOfInner != self {
                previous = candidate.pointee.nextOfInner
            }
            previous?.pointee.nextOfInner = pointee.nextOfInner
        }
        if pointee.holdsAnnex, !closing { leaveAnnex() }
        unfollow()
        EntryPool.give(self)
    }

    /// Another entry for the same set, under another number, still needs the annex.
    private func leaveAnnex() {
        var other = pointee.outer.pointee.inner
        while let candidate = other {
            if candidate.pointee.inner == pointee.inner {
                candidate.pointee.holdsAnnex = true
                return
            }
            other = candidate.pointee.nextOfOuter
        }
        let annex = pointee.inner.pointee.annex.load(ordering: .relaxed)
        _ = sys_epoll_ctl(pointee.outer.ours, EPOLL_CTL_DEL, annex, nil)
    }

    /// The inner set has sessions on companions, or a set within it has.
    fileprivate func follow() {
        guard !pointee.isFollowed else { return }
        pointee.isFollowed = true
        if !pointee.holdsAnnex { holdAnnex() }
        let outer = pointee.outer
        let before = outer.pointee.followed.wrappingAdd(1, ordering: .sequentiallyConsistent).oldValue
        outer.linksChanged()
        outer.followedChanged(from: before)
    }

    fileprivate func unfollow() {
        guard pointee.isFollowed else { return }
        pointee.isFollowed = false
        let outer = pointee.outer
        let before = outer.pointee.followed.wrappingSubtract(1, ordering: .sequentiallyConsistent).oldValue
        outer.linksChanged()
        outer.followedChanged(from: before)
    }

    fileprivate func holdAnnex() {
        let annex = pointee.inner.pointee.annex.load(ordering: .relaxed)
        guard annex >= 0 else { return }
        var event = libc_epoll_event(UInt32(EPOLLIN.rawValue) | Readiness.edge, EntryPool.data(EventTag.annex))
        pointee.holdsAnnex = sys_epoll_ctl(pointee.outer.ours, EPOLL_CTL_ADD, annex, &event) == 0
    }
}

extension UnsafeMutablePointer where Pointee == EpollSet {
    var isFollowed: Bool { pointee.followed.load(ordering: .sequentiallyConsistent) > 0 }

    /// Tells the sets above when the first thing here begins to report to us, and when the last one ends.
    func followedChanged(from before: UInt32) {
        let now = pointee.followed.load(ordering: .relaxed)
        guard (before == 0) != (now == 0) else { return }
        if now > 0 {
            if pointee.outers != nil { makeAnnex() }
            // Whoever sleeps here or above, by the kernel alone, looks again with our eyes.
            raise()
        } else if pointee.isRaised, pointee.kick >= 0 {
            lower()
        }
        var nest = pointee.outers
        while let candidate = nest {
            if now > 0 { candidate.follow() } else { candidate.unfollow() }
            nest = candidate.pointee.nextOfInner
        }
    }

    func linksChanged() {
        var isLinked = pointee.annex.load(ordering: .relaxed) >= 0
        var nest = pointee.inner
        while let candidate = nest {
            if candidate.pointee.isFollowed { isLinked = true }
            nest = candidate.pointee.nextOfOuter
        }
        pointee.isLinked = isLinked
    }

    /// Somebody watches this set: from now on it is readable only while something in it is ready. Without descriptors to spare
    /// it stays as it is, and is told too often.
    func makeAnnex() {
        guard pointee.annex.load(ordering: .relaxed) < 0, pointee.fd >= 0 else { return }
        let fresh = sys_epoll_create1(CInt(EPOLL_CLOEXEC))
        guard fresh >= 0 else { return }
        let annex = HiddenDescriptors.place(CInt(fresh))
        guard annex >= 0 else { return }
        pointee.nudge = EpollSetRef.hiddenEvent()
        var event = libc_epoll_event(UInt32(EPOLLIN.rawValue) | Readiness.edge, EntryPool.data(EventTag.annex))
        _ = sys_epoll_ctl(annex, EPOLL_CTL_ADD, pointee.nudge, &event)
        pointee.annex.store(annex, ordering: .sequentiallyConsistent)
        linksChanged()
        sendSleepersAway()
        var interest = pointee.interests
        while let candidate = interest {
            if candidate.pointee.isFollowed { move(candidate) }
            interest = candidate.pointee.nextOfSet
        }
        var nest = pointee.inner
        while let candidate = nest {
            if candidate.pointee.holdsAnnex {
                _ = sys_epoll_ctl(
                    pointee.fd, EPOLL_CTL_DEL, candidate.pointee.inner.pointee.annex.load(ordering: .relaxed), nil)
                candidate.holdAnnex()
            }
            nest = candidate.pointee.nextOfOuter
        }
    }

    /// Threads that wait the short way come back by the kick and go the long way; whoever comes later sees the annex.
    private func sendSleepersAway() {
        guard pointee.kick >= 0 else { return }
        var rounds = 0
        while pointee.sleepers.load(ordering: .sequentiallyConsistent) > 0, rounds < 10_000 {
            if rounds == 0 { EpollSetRef.signal(pointee.kick) }
            sched_yield()
            rounds &+= 1
        }
        lower()
    }
}
