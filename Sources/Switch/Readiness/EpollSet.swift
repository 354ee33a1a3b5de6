import CLibc
import CProvider
import Libc
import SessionState
import Synchronization

/// What one epoll instance wants to know of one session through one descriptor: an entry of the kernel's own set, and from the
/// switch-over on our side of it. Pooled in one range of addresses, so that a pointer stored as an event's data is recognised.
struct Interest {
    var set: EpollSetRef
    var session: SessionRef
    var fd: CInt
    /// As the program gave them.
    var events: UInt32
    var data: UInt64
    /// The kernel entry reports to us (data is a tag of ours), and the doorbell is in the set.
    var isFollowed = false
    /// EPOLLONESHOT has fired.
    var isDisabled = false
    /// The program took the entry out (EPOLL_CTL_DEL); the kernel's stays, so that putting it back costs no system call.
    var isParked = false
    /// Something happened that an edge-triggered interest must hear of.
    var hasEdge = false
    /// The kernel had something to say of the TCP socket.
    var askKernel = false
    var isHot = false
    /// A hot session whose peer was asked to ring, because this set's thread goes to sleep.
    var isArmed = false
    /// Looks in a row that found nothing.
    var misses: UInt32 = 0
    /// For edges: the producer cursor and the blocked sends last reported.
    var seenProduced: UInt64 = 0
    var seenBlocked: UInt32 = 0
    var nextOfSession: InterestRef?
    var nextHot: InterestRef?
    var previousHot: InterestRef?
    /// In the set's list, and in the pool's.
    var nextOfSet: InterestRef?
}

typealias InterestRef = UnsafeMutablePointer<Interest>

/// An epoll instance in which a session has been seen. The program's own instance stays real; this adds what it cannot see.
struct EpollSet: ~Copyable {
    let lock = ProcessLock()
    nonisolated(unsafe) var fd: CInt
    /// Descriptor numbers of this process that name it.
    let descriptors = Atomic<UInt32>(0)
    /// Interests that report to us. 0: the kernel alone serves this set.
    let followed = Atomic<UInt32>(0)
    /// Threads asleep in the kernel on this set.
    let sleepers = Atomic<UInt32>(0)
    /// An eventfd in the set that wakes them; -1 until needed.
    nonisolated(unsafe) var kick: CInt = -1
    /// Another set, or poll, watches this one: no session may stay unarmed between waits.
    nonisolated(unsafe) var isNested = false
    /// Sessions that were lately ready: looked at in user space before the kernel is asked. All others are armed.
    nonisolated(unsafe) var hot: InterestRef?
    /// An entry became hot since all were armed.
    nonisolated(unsafe) var hotIsNew = false
    nonisolated(unsafe) var interests: InterestRef?
    /// Ticks at which the kernel was last asked.
    nonisolated(unsafe) var kernelAsked: UInt64 = 0

    init(fd: CInt) { self.fd = fd }
}

typealias EpollSetRef = UnsafeMutablePointer<EpollSet>

/// Tags in an event's data: what one of our kernel entries is about.
enum EventTag {
    static let socket: UInt64 = 1
    static let doorbell: UInt64 = 2
    static let kick: UInt64 = 3
}

enum InterestPool {
    static let capacity = 1 << 18
    nonisolated(unsafe) private static var base: UnsafeMutableRawPointer?
    nonisolated(unsafe) private static var used = 0
    nonisolated(unsafe) private static var free: InterestRef?
    static let stride = 256

    /// With `Readiness.lock` held.
    static func take(_ interest: Interest) -> InterestRef? {
        if let reused = free {
            free = reused.pointee.nextOfSet
            reused.initialize(to: interest)
            return reused
        }
        if base == nil { base = map() }
        guard let base, used < capacity else { return nil }
        let fresh = (base + used * stride).assumingMemoryBound(to: Interest.self)
        used &+= 1
        fresh.initialize(to: interest)
        return fresh
    }

    /// Programs that store a descriptor in an event's data (CPython does) leave stray bits above it, often the upper half of some pointer. So
    /// the lower half of our addresses must not look like a descriptor: a quarter of the way into four gigabytes that nothing else is near.
    private static func map() -> UnsafeMutableRawPointer? {
        let length = capacity * stride
        for upper in 0x1a53..<0x1a5b {
            let wish = UnsafeMutableRawPointer(bitPattern: upper << 32 | 1 << 30)
            guard let place = sys_map_near(wish, length, -1, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE) else {
                return nil
            }
            if UInt(bitPattern: place) & 0xffff_ffff >= 1 << 28 { return place }
            sys_unmap(place, length)
        }
        return nil
    }

    static func give(_ interest: InterestRef) {
        interest.pointee.isFollowed = false
        interest.pointee.nextOfSet = free
        free = interest
    }

    /// Whether `data` is a tag of ours, in any set; never true of the program's own pointers.
    @inline(__always)
    static func owns(_ data: UInt64) -> Bool {
        guard let base else { return false }
        return data &- UInt64(UInt(bitPattern: base)) < UInt64(capacity * stride)
    }

    /// The address that stands for a set's kick; any address in the range with the kick's tag.
    static var kickData: UInt64 { UInt64(UInt(bitPattern: base)) | EventTag.kick }
}

extension UnsafeMutablePointer where Pointee == EpollSet {
    // MARK: Entries; with Readiness.lock held

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
            let interest = InterestPool.take(Interest(set: self, session: session, fd: fd, events: events, data: data))
        else { return }
        interest.pointee.nextOfSession = session.pointee.interests
        session.pointee.interests = interest
        pointee.lock.lock()
        interest.pointee.nextOfSet = pointee.interests
        pointee.interests = interest
        pointee.lock.unlock()
        if session.usesCompanion { follow(interest) }
    }

    /// Drops an entry. `closing`: the descriptor is gone, and the kernel's entry with it.
    func remove(_ interest: InterestRef, closing: Bool) {
        let session = interest.pointee.session
        unlink(interest, &session.pointee.interests)
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
        if interest.pointee.isFollowed { unfollow(interest, closing: closing) }
        pointee.lock.unlock()
        InterestPool.give(interest)
    }

    private func unlink(_ interest: InterestRef, _ head: inout InterestRef?) {
        if head == interest {
            head = interest.pointee.nextOfSession
            return
        }
        var previous = head
        while let candidate = previous {
            if candidate.pointee.nextOfSession == interest {
                candidate.pointee.nextOfSession = interest.pointee.nextOfSession
                return
            }
            previous = candidate.pointee.nextOfSession
        }
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

    /// Brings the kernel's entry in line with the paths: each direction is watched where its bytes travel.
    func follow(_ interest: InterestRef) {
        let session = interest.pointee.session
        pointee.lock.lock()
        defer { pointee.lock.unlock() }
        guard session.usesCompanion else {
            if interest.pointee.isFollowed { restore(interest) }
            return
        }
        if !interest.pointee.isFollowed, interest.pointee.events & Readiness.oneShot != 0 {
            interest.pointee.isDisabled = KernelEntry.hasFired(interest.pointee.fd, in: pointee.fd)
        }
        var event = libc_epoll_event(kernelEvents(session), UInt64(UInt(bitPattern: interest)) | EventTag.socket)
        if interest.pointee.events & Readiness.exclusive != 0, !interest.pointee.isFollowed {
            // epoll_ctl(2): an exclusive entry cannot be modified.
            _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_DEL, interest.pointee.fd, nil)
            _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_ADD, interest.pointee.fd, &event)
        } else {
            _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_MOD, interest.pointee.fd, &event)
        }
        if !interest.pointee.isFollowed {
            interest.pointee.isFollowed = true
            var bell = libc_epoll_event(
                UInt32(EPOLLIN.rawValue) | Readiness.edge, UInt64(UInt(bitPattern: interest)) | EventTag.doorbell)
            _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_ADD, session.pointee.doorbell, &bell)
            pointee.followed.wrappingAdd(1, ordering: .sequentiallyConsistent)
            placeKick()
        }
        interest.pointee.hasEdge = true
        interest.pointee.askKernel = true
        if !interest.pointee.isParked { heat(interest) }
        rouse()
    }

    /// Edge-triggered and complete: an edge makes us ask, and what the program wants is sorted out on our side.
    private func kernelEvents(_ session: SessionRef) -> UInt32 {
        Readiness.edge | Readiness.readHangup | Readiness.priority | (session.receivesOnCompanion ? 0 : Readiness.input)
            | (session.sendsOnCompanion ? 0 : Readiness.output)
    }

    /// Both directions are on TCP again: the kernel serves the entry alone.
    private func restore(_ interest: InterestRef) {
        if interest.pointee.isParked {
            // Taken out meanwhile; its memory goes with the session.
            _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_DEL, interest.pointee.fd, nil)
            return unfollow(interest, closing: false)
        }
        var event = libc_epoll_event(
            interest.pointee.isDisabled ? Readiness.oneShot : interest.pointee.events & ~Readiness.exclusive,
            interest.pointee.data)
        _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_MOD, interest.pointee.fd, &event)
        cool(interest)
        unfollow(interest, closing: false)
    }

    private func unfollow(_ interest: InterestRef, closing: Bool) {
        interest.pointee.isFollowed = false
        pointee.followed.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        var other = interest.pointee.session.pointee.interests
        while let candidate = other {
            if candidate != interest, candidate.pointee.set == self, candidate.pointee.isFollowed {
                // Another descriptor of the same session in this set: the doorbell is its, from now on.
                var bell = libc_epoll_event(
                    UInt32(EPOLLIN.rawValue) | Readiness.edge, UInt64(UInt(bitPattern: candidate)) | EventTag.doorbell)
                _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_MOD, interest.pointee.session.pointee.doorbell, &bell)
                return
            }
            other = candidate.pointee.nextOfSession
        }
        _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_DEL, interest.pointee.session.pointee.doorbell, nil)
    }

    // MARK: Waking those who sleep in the kernel; with the set's lock held

    private func placeKick() {
        guard pointee.kick < 0 else { return }
        let fd = sys_eventfd()
        guard fd >= 0 else { return }
        pointee.kick = HiddenDescriptors.place(CInt(fd))
        guard pointee.kick >= 0 else {
            _ = sys_close(CInt(fd))
            return
        }
        var event = libc_epoll_event(UInt32(EPOLLIN.rawValue), InterestPool.kickData)
        _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_ADD, pointee.kick, &event)
        ring()
    }

    /// The program needs the number of a kick (GivingWay.swift); -1: it goes, if no session of its set needs it.
    static func renumberKick(_ number: CInt, _ new: CInt) -> Bool {
        for fd in 0..<DescriptorTable.end {
            guard let set = DescriptorTable.slot(fd).epollSet, set.pointee.kick == number else { continue }
            set.pointee.lock.lock()
            defer { set.pointee.lock.unlock() }
            guard set.pointee.kick == number, new >= 0 || set.pointee.followed.load(ordering: .relaxed) == 0 else {
                return false
            }
            var event = libc_epoll_event(UInt32(EPOLLIN.rawValue), InterestPool.kickData)
            _ = sys_epoll_ctl(set.pointee.fd, EPOLL_CTL_DEL, number, nil)
            if new >= 0 { _ = sys_epoll_ctl(set.pointee.fd, EPOLL_CTL_ADD, new, &event) }
            set.pointee.kick = new
            return true
        }
        return false
    }

    /// The doorbell of a followed session has another number. With `Readiness.lock` held.
    func watchDoorbell(_ interest: InterestRef, _ number: CInt, _ new: CInt) {
        pointee.lock.lock()
        var bell = libc_epoll_event(
            UInt32(EPOLLIN.rawValue) | Readiness.edge, UInt64(UInt(bitPattern: interest)) | EventTag.doorbell)
        _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_DEL, number, nil)
        _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_ADD, new, &bell)
        pointee.lock.unlock()
    }

    private func ring() {
        var one: UInt64 = 1
        if pointee.kick >= 0 { _ = sys_write(pointee.kick, &one, 8) }
    }

    /// Something became ready that sleeping threads cannot know of.
    func rouse() { if pointee.sleepers.load(ordering: .sequentiallyConsistent) > 0 || pointee.isNested { ring() } }

    /// With `Readiness.lock` held.
    func lookAgain(_ interest: InterestRef) {
        guard interest.pointee.isFollowed, !interest.pointee.isParked else { return }
        pointee.lock.lock()
        heat(interest)
        rouse()
        pointee.lock.unlock()
    }

    func silenceKick() {
        var count: UInt64 = 0
        _ = sys_read(pointee.kick, &count, 8)
    }

    // MARK: The hot list; with the set's lock held

    func heat(_ interest: InterestRef) {
        interest.pointee.misses = 0
        guard !interest.pointee.isHot else { return }
        interest.pointee.isHot = true
        interest.pointee.isArmed = false
        pointee.hotIsNew = true
        interest.pointee.previousHot = nil
        interest.pointee.nextHot = pointee.hot
        pointee.hot?.pointee.previousHot = interest
        pointee.hot = interest
    }

    /// Turns the list, so that a call with few places does not report the same sessions for ever.
    func startWith(_ interest: InterestRef) {
        guard let first = pointee.hot, first != interest, let before = interest.pointee.previousHot else { return }
        var last = interest
        while let next = last.pointee.nextHot { last = next }
        before.pointee.nextHot = nil
        interest.pointee.previousHot = nil
        last.pointee.nextHot = first
        first.pointee.previousHot = last
        pointee.hot = interest
    }

    func cool(_ interest: InterestRef) {
        guard interest.pointee.isHot else { return }
        interest.pointee.isHot = false
        interest.pointee.nextHot?.pointee.previousHot = interest.pointee.previousHot
        if let previous = interest.pointee.previousHot {
            previous.pointee.nextHot = interest.pointee.nextHot
        } else {
            pointee.hot = interest.pointee.nextHot
        }
        interest.pointee.nextHot = nil
        interest.pointee.previousHot = nil
    }

    // MARK: Life

    /// The set of `fd`, made when the first session enters it.
    static func of(_ fd: CInt) -> EpollSetRef? {
        if let set = DescriptorTable.slot(fd).epollSet { return set }
        guard DescriptorTable.slot(fd) == .empty, UInt32(bitPattern: fd) < UInt32(DescriptorTable.capacity) else {
            return nil
        }
        let set = EpollSetRef.allocate(capacity: 1)
        set.initialize(to: EpollSet(fd: fd))
        set.pointee.descriptors.store(1, ordering: .relaxed)
        DescriptorTable.exchange(fd, Slot(set))
        return set
    }

    /// One descriptor fewer names the set; the last one forgets it. Sets are rare and small: their memory stays.
    func closed() {
        guard pointee.descriptors.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue == 0 else { return }
        Readiness.lock.lock()
        while let interest = pointee.interests { remove(interest, closing: true) }
        Readiness.lock.unlock()
        pointee.lock.lock()
        HiddenDescriptors.close(pointee.kick)
        pointee.kick = -1
        pointee.lock.unlock()
    }
}
