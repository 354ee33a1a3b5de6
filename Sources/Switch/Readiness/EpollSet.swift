import CLibc
import CProvider
import Libc
import SessionState
import Synchronization

/// An epoll instance in which a session or another instance has been seen. The program's own instance stays real; this adds
/// what it cannot see.
struct EpollSet: ~Copyable {
    let lock = ProcessLock()
    /// One of the numbers that name it; -1 once all are closed.
    nonisolated(unsafe) var fd: CInt
    /// Descriptor numbers of this process that name it.
    let descriptors = Atomic<UInt32>(0)
    /// Interests, and sets within this one, that report to us. 0: the kernel alone serves this set.
    let followed = Atomic<UInt32>(0)
    /// Threads asleep in the kernel on this set.
    let sleepers = Atomic<UInt32>(0)
    /// An eventfd in the set that wakes them; -1 until needed.
    nonisolated(unsafe) var kick: CInt = -1
    /// Sessions that were lately ready: looked at in user space before the kernel is asked. All others are armed.
    nonisolated(unsafe) var hot: InterestRef?
    /// An entry became hot since all were armed.
    nonisolated(unsafe) var hotIsNew = false
    nonisolated(unsafe) var interests: InterestRef?
    /// Ticks at which the kernel was last asked.
    nonisolated(unsafe) var kernelAsked: UInt64 = 0

    // Sets within sets (Nest.swift); under `Readiness.lock`.

    /// The sets within this one; those that hold this one.
    nonisolated(unsafe) var inner: NestRef?
    nonisolated(unsafe) var outers: NestRef?
    /// Watched by another set, poll or select: a hidden instance that holds our entries in place of this one; -1 until then.
    let annex = Atomic<CInt>(-1)
    /// An eventfd in the annex that wakes whoever sleeps on it.
    nonisolated(unsafe) var nudge: CInt = -1
    /// The kick is readable, because a session of the set is ready.
    nonisolated(unsafe) var isRaised = false
    /// It has an annex, or sets with sessions within it: waits go the long way (NestedWait.swift).
    nonisolated(unsafe) var isLinked = false
    /// Whose turn it is when a call has one place.
    nonisolated(unsafe) var sessionsFirst = false

    init(fd: CInt) { self.fd = fd }
}

typealias EpollSetRef = UnsafeMutablePointer<EpollSet>

/// Entries; with Readiness.lock held.
extension UnsafeMutablePointer where Pointee == EpollSet {
    func find(_ session: SessionRef, _ fd: CInt) -> InterestRef? {
        var interest = session.pointee.interests
        while let candidate = interest {
            if candidate.pointee.set == self, candidate.pointee.fd == fd { return candidate }
            interest = candidate.pointee.nextOfSession
        }
        return nil
    }

    /// Notes an entry that the kernel has just taken.
    func add(_ session: SessionRef, _ fd: CInt, _ events: UInt32, _ data: UInt64) {
        guard
            let interest = EntryPool.take(Interest(set: self, session: session, fd: fd, events: events, data: data))
        else { return }
        interest.pointee.nextOfSession = session.pointee.interests
        session.pointee.interests = interest
        pointee.lock.lock()
        interest.pointee.nextOfSet = pointee.interests
        pointee.interests = interest
        pointee.lock.unlock()
        if session.usesCompanion { follow(interest) }
    }

    /// Drops an entry: the program took it out, or the descriptor is gone, and the kernel's entry with it.
    func remove(_ interest: InterestRef) {
        let session = interest.pointee.session
        session.unlink(interest)
        let before = pointee.followed.load(ordering: .relaxed)
        pointee.lock.lock()
        cool(interest)
        if pointee.interests == interest {
            pointee.interests = interest.pointee.nextOfSet
        } else {
            var previous = pointee.interests
            while let candidate = previous, candidate.pointee.nextOfSet != interest {
                previous = candidate.pointee.nextOfSet
            }
            previous?.pointee.nextOfSet = interest.pointee.nextOfSet
        }
        if interest.pointee.isFollowed { unfollow(interest) }
        pointee.lock.unlock()
        EntryPool.give(interest)
        followedChanged(from: before)
    }

    /// The program changed an entry that reports to us, or put it back. No system call: the kernel's entry does not depend on
    /// what the program wants.
    func modify(_ interest: InterestRef, _ events: UInt32, _ data: UInt64) {
        pointee.lock.lock()
        interest.pointee.events = events
        interest.pointee.data = data
        interest.pointee.isDisabled = false
        interest.pointee.isParked = false
        interest.pointee.hasEdge = true
        interest.forgetNews()
        if !interest.pointee.session.receivesOnCompanion || !interest.pointee.session.sendsOnCompanion {
            interest.pointee.askKernel = true
        }
        heat(interest)
        rouse()
        pointee.lock.unlock()
    }

    /// The program took the entry out.
    func park(_ interest: InterestRef) {
        pointee.lock.lock()
        interest.pointee.isParked = true
        cool(interest)
        pointee.lock.unlock()
    }

    func lookAgain(_ interest: InterestRef) {
        guard interest.pointee.isFollowed, !interest.pointee.isParked else { return }
        pointee.lock.lock()
        heat(interest)
        rouse()
        pointee.lock.unlock()
    }
}

/// Life of a set.
extension UnsafeMutablePointer where Pointee == EpollSet {
    /// The set of `fd`, made when the first session or inner set enters it.
    static func of(_ fd: CInt) -> EpollSetRef? {
        let slot = DescriptorTable.slot(fd)
        if let set = slot.epollSet { return set }
        guard slot == .empty || slot == .plainSet, UInt32(bitPattern: fd) < UInt32(DescriptorTable.capacity) else {
            return nil
        }
        let set = EpollSetRef.allocate(capacity: 1)
        set.initialize(to: EpollSet(fd: fd))
        set.pointee.descriptors.store(1, ordering: .relaxed)
        DescriptorTable.exchange(fd, Slot(set))
        return set
    }

    /// `number` names the set no longer; the last one forgets it. Sets are rare and small: their memory stays.
    func closed(_ number: CInt) {
        Readiness.lock.lock()
        defer { Readiness.lock.unlock() }
        guard pointee.descriptors.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue == 0 else {
            return rename(number)
        }
        // The number may be another file's by now.
        pointee.fd = -1
        let annex = pointee.annex.exchange(-1, ordering: .sequentiallyConsistent)
        while let interest = pointee.interests { remove(interest) }
        while let nest = pointee.outers { nest.drop(closing: true) }
        while let nest = pointee.inner { nest.drop(closing: true) }
        for hidden in [annex, pointee.nudge, pointee.kick] as Numbers where hidden >= 0 {
            HiddenDescriptors.close(hidden)
        }
        pointee.nudge = -1
        pointee.kick = -1
    }

    private func rename(_ number: CInt) {
        guard pointee.fd == number else { return }
        for other in 0..<DescriptorTable.highWater where DescriptorTable.slot(other).epollSet == self {
            pointee.fd = other
            return
        }
    }
}

/// Three numbers, without an array allocation.
private struct Numbers: Sequence, IteratorProtocol, ExpressibleByArrayLiteral {
    private let a: CInt, b: CInt, c: CInt
    private var position = 0
    init(arrayLiteral elements: CInt...) { (a, b, c) = (elements[0], elements[1], elements[2]) }
    mutating func next() -> CInt? {
        position &+= 1
        return position == 1 ? a : position == 2 ? b : position == 3 ? c : nil
    }
}

extension UnsafeMutablePointer where Pointee == Session {
    /// Takes an entry out of the session's list.
    fileprivate func unlink(_ interest: InterestRef) {
        if pointee.interests == interest {
            pointee.interests = interest.pointee.nextOfSession
            return
        }
        var previous = pointee.interests
        while let candidate = previous {
            if candidate.pointee.nextOfSession == interest {
                candidate.pointee.nextOfSession = interest.pointee.nextOfSession
                return
            }
            previous = candidate.pointee.nextOfSession
        }
    }
}
