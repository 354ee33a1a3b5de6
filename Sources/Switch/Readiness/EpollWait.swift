import CLibc
import Libc
import SessionState
import Synchronization

/// Waiting on a set that holds switched sessions: hot sessions are looked at in user space, all others are armed and the kernel
/// wakes for them. No scan of idle sessions, no thread.
extension UnsafeMutablePointer where Pointee == EpollSet {
    static let missesBeforeArming: UInt32 = 64

    func wait(
        _ events: UnsafeMutablePointer<epoll_event>, _ most: Int, _ timeout: Int, _ mask: UnsafePointer<sigset_t>?
    ) -> CInt {
        let deadline = timeout > 0 ? libc_nanoseconds() &+ UInt64(timeout) : 0
        while true {
            if pointee.isLinked { return waitLinked(events, most, timeout, deadline, mask) }
            // Other descriptors must not suffer while sessions are busy: when it is their turn, half of the places are theirs.
            var count = 0
            if isKernelDue, pointee.hot != nil { count = askKernel(events, max(1, most / 2)) }
            count += collect(events + count, most - count)
            // A call that may not wait asks everybody.
            if count == 0, timeout == 0 || isKernelDue { count = askKernel(events, most) }
            if count > 0 { return CInt(truncatingIfNeeded: count) }
            if timeout != 0, pointee.hot != nil, spin() { continue }
            if returnEnded() { continue }
            guard armAll() else {
                disarmAll()
                continue
            }
            if timeout == 0 {
                disarmAll()
                return 0
            }
            var remaining = -1
            if timeout > 0 {
                let now = libc_nanoseconds()
                if now >= deadline { return 0 }
                remaining = Int(deadline &- now)
            }
            let begin = libc_ticks()
            pointee.sleepers.wrappingAdd(1, ordering: .sequentiallyConsistent)
            // An entry that was added after the arming has not seen this sleeper; nor has who made the annex.
            let isOutdated = pointee.hotIsNew || pointee.annex.load(ordering: .sequentiallyConsistent) >= 0
            let result = isOutdated ? 0 : block(events, CInt(truncatingIfNeeded: most), remaining, mask)
            pointee.sleepers.wrappingSubtract(1, ordering: .sequentiallyConsistent)
            pointee.kernelAsked = libc_ticks()
            if result < 0 { return result }
            Spin.learn(slept: pointee.kernelAsked &- begin)
            disarmAll()
            let reported = translate(events, Int(result))
            if reported > 0 { return CInt(truncatingIfNeeded: reported) }
        }
    }

    /// The kernel's own wait; no limit below zero.
    func block(
        _ events: UnsafeMutablePointer<epoll_event>, _ most: CInt, _ nanoseconds: Int, _ mask: UnsafePointer<sigset_t>?
    ) -> CInt {
        if nanoseconds < 0 { return real_epoll_pwait(pointee.fd, events, most, -1, mask) }
        var limit = timespec(tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000)
        return real_epoll_pwait2(pointee.fd, events, most, &limit, mask)
    }

    /// Reports what hot sessions have. Sessions that had nothing for long are armed and leave the list.
    func collect(_ events: UnsafeMutablePointer<epoll_event>, _ most: Int) -> Int {
        guard pointee.hot != nil else { return 0 }
        pointee.lock.lock()
        defer { pointee.lock.unlock() }
        var count = 0
        var interest = pointee.hot
        while let candidate = interest, count < most {
            interest = candidate.pointee.nextHot
            let bits = candidate.report()
            if bits != 0 {
                events[count] = libc_epoll_event(bits, candidate.pointee.data)
                count &+= 1
                candidate.pointee.misses = 0
            } else {
                candidate.pointee.misses &+= 1
                if candidate.pointee.misses > Self.missesBeforeArming, arm(candidate) { cool(candidate) }
            }
        }
        if count == most, let next = interest { startWith(next) }
        return count
    }

    /// Arms a session; false when something has arrived meanwhile.
    @inline(__always)
    func arm(_ interest: InterestRef) -> Bool {
        let session = interest.pointee.session
        interest.pointee.isArmed = true
        if session.receivesOnCompanion { session.armReceiver() }
        if session.sendsOnCompanion, interest.pointee.events & Readiness.output != 0 { session.armSender() }
        return !interest.isReady
    }

    /// Before sleeping: every hot session armed. They stay on the list: awake again, this thread looks at them without having
    /// been rung for each. False: one is ready after all.
    private func armAll() -> Bool {
        guard pointee.hot != nil || pointee.hotIsNew else { return true }
        pointee.lock.lock()
        defer { pointee.lock.unlock() }
        // Also when the list is empty: what was new on it may have been closed since.
        pointee.hotIsNew = false
        var interest = pointee.hot
        while let candidate = interest {
            guard arm(candidate) else { return false }
            interest = candidate.pointee.nextHot
        }
        return true
    }

    /// Awake: the peers of hot sessions need not ring. A flag that another sleeper relies on stays.
    private func disarmAll() {
        guard pointee.hot != nil, pointee.sleepers.load(ordering: .sequentiallyConsistent) == 0 else { return }
        pointee.lock.lock()
        var interest = pointee.hot
        while let candidate = interest {
            if candidate.pointee.isArmed {
                candidate.pointee.isArmed = false
                let session = candidate.pointee.session
                if session.state.pointee.sleepers.load(ordering: .sequentiallyConsistent) == 0,
                    session.pointee.interests?.pointee.nextOfSession == nil
                {
                    session.pointee.outbox?.pointee.receiverAsleep.store(0, ordering: .relaxed)
                }
            }
            interest = candidate.pointee.nextHot
        }
        pointee.lock.unlock()
    }

    /// A session whose interval in the ring is over returns to TCP before the kernel is asked to wake for it. Outside the set's lock, which
    /// comes after a direction's. True when one has.
    private func returnEnded() -> Bool {
        guard let session = endedSession() else { return false }
        defer { session.drop() }
        session.returnBeforeSleep()
        return !session.receivesOnCompanion
    }

    /// A hot session of that kind, held.
    func endedSession() -> SessionRef? {
        guard pointee.hot != nil else { return nil }
        pointee.lock.lock()
        defer { pointee.lock.unlock() }
        var interest = pointee.hot
        while let candidate = interest {
            let session = candidate.pointee.session
            if session.receivesOnCompanion, session.isAtIntervalEnd {
                session.pointee.holds.wrappingAdd(1, ordering: .acquiringAndReleasing)
                return session
            }
            interest = candidate.pointee.nextHot
        }
        return nil
    }

    private var isAnythingReady: Bool {
        pointee.lock.lock()
        defer { pointee.lock.unlock() }
        var interest = pointee.hot
        while let candidate = interest {
            if candidate.isReady { return true }
            interest = candidate.pointee.nextHot
        }
        return false
    }

    /// Looks for a while before arming; the kernel's part of the set is asked now and then.
    private func spin() -> Bool {
        guard maySpin else { return false }
        return Spin.until {
            if isAnythingReady { return true }
            guard isKernelDue else { return false }
            pointee.kernelAsked = libc_ticks()
            var entry = pollfd(fd: pointee.fd, events: CShort(POLLIN), revents: 0)
            guard sys_poll(&entry, 1, 0) > 0 else { return false }
            pointee.kernelAsked = 0
            return true
        }
    }

    /// Under the lock, since a session leaves its sets before its memory goes.
    private var maySpin: Bool {
        pointee.lock.lock()
        defer { pointee.lock.unlock() }
        return pointee.hot?.pointee.session.maySpin ?? false
    }

    /// Whether the kernel has not been asked for so long that other descriptors would suffer.
    private var isKernelDue: Bool { libc_ticks() &- pointee.kernelAsked > Spin.ticks(microseconds: 15) }

    /// Events of the kernel's for the program, without waiting. Entries of ours must not use the places up.
    func askKernel(_ events: UnsafeMutablePointer<epoll_event>, _ most: Int) -> Int {
        pointee.kernelAsked = libc_ticks()
        for _ in 0..<64 {
            let fetched = max(0, sys_epoll_wait(pointee.fd, events, CInt(truncatingIfNeeded: most), 0))
            let kept = translate(events, fetched)
            if kept > 0 || fetched < most { return kept }
        }
        return 0
    }

    /// Takes our own entries out of what the kernel reported; the number of events left for the program.
    func translate(_ events: UnsafeMutablePointer<epoll_event>, _ count: Int) -> Int {
        guard count > 0 else { return 0 }
        var kept = 0
        for i in 0..<count {
            let data = libc_epoll_data(events + i)
            if !EntryPool.owns(data) {
                if kept != i { events[kept] = events[i] }
                kept &+= 1
            } else if data & EventTag.mask != EventTag.nest {
                note(data, events[i].events)
            } else if let nest = NestRef(bitPattern: UInt(data & ~EventTag.mask)),
                let event = confirm(nest, events[i].events)
            {
                events[kept] = event
                kept &+= 1
            }
        }
        return kept
    }

    /// What one of our own entries has to say.
    func note(_ data: UInt64, _ bits: UInt32) {
        let tag = data & EventTag.mask
        pointee.lock.lock()
        defer { pointee.lock.unlock() }
        if tag == EventTag.kick {
            // A watched set's kick is a statement (Nest.swift); elsewhere it only wakes.
            if pointee.annex.load(ordering: .relaxed) < 0 { silenceKick() }
            return
        }
        guard tag == EventTag.socket || tag == EventTag.doorbell,
            let interest = InterestRef(bitPattern: UInt(data & ~EventTag.mask)), interest.pointee.isFollowed,
            interest.pointee.set == self
        else { return }
        let session = interest.pointee.session
        if tag == EventTag.doorbell {
            // Edge-triggered: each ring is an event, silenced or not; so silence now and then, before the bell is full.
            session.pointee.unsilenced &+= 1
            if bits != UInt32(EPOLLIN.rawValue) || session.pointee.unsilenced > 64,
                session.state.pointee.sleepers.load(ordering: .sequentiallyConsistent) == 0
            {
                session.pointee.unsilenced = 0
                session.silenceDoorbell()
            }
            // Other descriptors of the same session in this set share the doorbell.
            var other = session.pointee.interests
            while let candidate = other {
                if candidate.pointee.set == self, candidate.pointee.isFollowed, !candidate.pointee.isParked {
                    heat(candidate)
                }
                other = candidate.pointee.nextOfSession
            }
        } else {
            interest.hear(bits)
            if !interest.pointee.isParked { heat(interest) }
        }
    }
}
