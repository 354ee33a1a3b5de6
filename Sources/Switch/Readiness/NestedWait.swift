import CLibc
import Libc
import SessionState
import Synchronization

/// Looking at sets within sets, and waiting on them.
extension UnsafeMutablePointer where Pointee == EpollSet {
    /// Brings what the kernel shows of this set in line with its sessions and those below: afterwards every session is armed, or
    /// ready and shown. With `Readiness.lock` held.
    func settle() {
        guard isFollowed else { return }
        let annex = pointee.annex.load(ordering: .relaxed)
        if annex >= 0 { drain(annex) }
        var nest = pointee.inner
        while let candidate = nest {
            candidate.pointee.inner.settle()
            nest = candidate.pointee.nextOfOuter
        }
        let (isReady, isNew) = armOrFind()
        guard annex >= 0 else { return }
        if isReady, isNew || !pointee.isRaised { raise() }
        // What came and went is an edge all the same: something else in the set may be ready.
        if !isReady, isNew, isHeardAsEdge { raise() }
        if !isReady, pointee.isRaised { lower() }
    }

    /// All entries of the annex are edge-triggered: fetched is used up.
    private func drain(_ annex: CInt) {
        withUnsafeTemporaryAllocation(of: epoll_event.self, capacity: 16) { buffer in
            let events = buffer.baseAddress.unsafelyUnwrapped
            var count: Int
            repeat {
                count = sys_epoll_wait(annex, events, 16, 0)
                for i in 0..<max(0, count) { note(libc_epoll_data(events + i), events[i].events) }
            } while count == 16
        }
    }

    /// Arms what has nothing. Whether a session is ready, and whether one has become so, or once more, since the last time.
    private func armOrFind() -> (isReady: Bool, isNew: Bool) {
        var (isReady, isNew) = (false, false)
        pointee.lock.lock()
        defer { pointee.lock.unlock() }
        pointee.hotIsNew = false
        var interest = pointee.hot
        while let candidate = interest {
            interest = candidate.pointee.nextHot
            let hasNothing = arm(candidate)
            if candidate.isNews(isReady: !hasNothing) { isNew = true }
            if !hasNothing {
                isReady = true
            } else if !candidate.pointee.session.isAtIntervalEnd {
                cool(candidate)
            }
        }
        return (isReady, isNew)
    }

    /// Whether an outer set, at any height, has an edge-triggered entry above this one.
    private var isHeardAsEdge: Bool {
        var nest = pointee.outers
        while let candidate = nest {
            if candidate.pointee.events & Readiness.edge != 0 || candidate.pointee.outer.isHeardAsEdge { return true }
            nest = candidate.pointee.nextOfInner
        }
        return false
    }

    /// poll(2), select(2) and the program's outer sets: this set is watched, and shows what is true now. The annex to sleep on,
    /// or -1.
    func watch() -> CInt {
        Readiness.lock.lock()
        if isFollowed { makeAnnex() }
        Readiness.lock.unlock()
        settleAndReturnEnded()
        return isFollowed ? pointee.annex.load(ordering: .relaxed) : -1
    }

    /// Sessions whose interval in the ring is over return to TCP before the kernel is asked for them: outside all locks here, which
    /// come after a direction's.
    private func settleAndReturnEnded() {
        while true {
            Readiness.lock.lock()
            settle()
            let ended = endedBelow()
            Readiness.lock.unlock()
            guard let ended else { return }
            ended.returnBeforeSleep()
            let stays = ended.receivesOnCompanion
            ended.drop()
            if stays { return }
        }
    }

    private func endedBelow() -> SessionRef? {
        if let session = endedSession() { return session }
        var nest = pointee.inner
        while let candidate = nest {
            if let session = candidate.pointee.inner.endedBelow() { return session }
            nest = candidate.pointee.nextOfOuter
        }
        return nil
    }

    /// Whether the kernel's word that an inner set is ready holds once its sessions are looked at: the event for the program.
    func confirm(_ nest: NestRef, _ bits: UInt32) -> epoll_event? {
        Readiness.lock.lock()
        defer { Readiness.lock.unlock() }
        guard nest.pointee.isIn, nest.pointee.outer == self else { return nil }
        let inner = nest.pointee.inner
        if inner.isFollowed {
            inner.settle()
            var entry = pollfd(fd: inner.pointee.fd, events: CShort(POLLIN), revents: 0)
            if sys_poll(&entry, 1, 0) == 0 {
                if nest.pointee.events & Readiness.oneShot != 0 {
                    // It has fired for nothing.
                    var event = libc_epoll_event(nest.pointee.events, nest.data)
                    _ = sys_epoll_ctl(pointee.fd, EPOLL_CTL_MOD, nest.pointee.fd, &event)
                }
                return nil
            }
        }
        return libc_epoll_event(bits, nest.pointee.data)
    }

    /// As `wait`, for a set that is watched, or has sets with sessions within it.
    func waitLinked(
        _ events: UnsafeMutablePointer<epoll_event>, _ most: Int, _ timeout: Int, _ deadline: UInt64,
        _ mask: UnsafePointer<sigset_t>?
    ) -> CInt {
        while true {
            settleAndReturnEnded()
            let count = look(events, most)
            if count > 0 || timeout == 0 { return CInt(truncatingIfNeeded: count) }
            var remaining = -1
            if timeout > 0 {
                let now = libc_nanoseconds()
                if now >= deadline { return 0 }
                remaining = Int(deadline &- now)
            }
            pointee.sleepers.wrappingAdd(1, ordering: .sequentiallyConsistent)
            let annex = pointee.annex.load(ordering: .sequentiallyConsistent)
            var result: CInt = 0
            if !pointee.hotIsNew {
                result =
                    annex >= 0 ? sleep(annex, remaining, mask) : block(events, CInt(truncatingIfNeeded: most), remaining, mask)
            }
            pointee.sleepers.wrappingSubtract(1, ordering: .sequentiallyConsistent)
            if result < 0 { return result }
            // From the annex way nothing has been fetched yet.
            let reported = annex >= 0 ? 0 : translate(events, Int(result))
            if reported > 0 { return CInt(truncatingIfNeeded: reported) }
        }
    }

    /// What there is now, from the kernel and from sessions, half of the places for each when both have much.
    private func look(_ events: UnsafeMutablePointer<epoll_event>, _ most: Int) -> Int {
        let share = pointee.hot == nil ? most : max(1, most / 2)
        pointee.sessionsFirst.toggle()
        if pointee.sessionsFirst {
            let count = collect(events, share)
            return count < most ? count + askKernel(events + count, most - count) : count
        }
        let count = askKernel(events, share)
        return count + collect(events + count, most - count)
    }

    /// Sleeps on the program's instance and on the annex.
    private func sleep(_ annex: CInt, _ nanoseconds: Int, _ mask: UnsafePointer<sigset_t>?) -> CInt {
        withUnsafeTemporaryAllocation(of: pollfd.self, capacity: 2) { entries in
            entries[0] = pollfd(fd: pointee.fd, events: CShort(POLLIN), revents: 0)
            entries[1] = pollfd(fd: annex, events: CShort(POLLIN), revents: 0)
            var limit = timespec(tv_sec: max(0, nanoseconds) / 1_000_000_000, tv_nsec: max(0, nanoseconds) % 1_000_000_000)
            return withUnsafePointer(to: &limit) {
                real_ppoll(entries.baseAddress, 2, nanoseconds < 0 ? nil : $0, mask)
            }
        }
    }
}
