import CLibc
import Libc
import SessionState
import Synchronization

/// One call of poll(2) on a set that holds sessions: the kernel watches the program's entries and the sessions' doorbells, the
/// rings say the rest. select(2) is brought to the same form (Calls/Select.swift).
struct PollSet {
    /// An entry of the program's as this call sees it.
    struct Watched {
        var session: SessionRef?
        /// The ring says when at least one direction is ready.
        var isFollowed = false
        /// The kernel is asked for the doorbell in place of the program's entry.
        var isBellAlone = false
        /// An epoll set with sessions, whose annex is among the bells.
        var set: EpollSetRef?
    }

    let entries: UnsafeMutablePointer<pollfd>
    let count: Int
    let watched: UnsafeMutablePointer<Watched>
    /// What the kernel is asked: `count` entries, then the doorbells.
    let asked: UnsafeMutablePointer<pollfd>
    var bells = 0

    /// Whether anything in the set needs more than the kernel's answer.
    @inline(__always)
    static func concerns(_ entries: UnsafeMutablePointer<pollfd>, _ count: Int) -> Bool {
        guard DescriptorTable.slots != nil else { return false }
        for i in 0..<count {
            let slot = DescriptorTable.slot(entries[i].fd)
            if slot.session != nil || slot.isEpollSet { return true }
        }
        return false
    }

    /// `timeout` in nanoseconds, negative for none.
    static func wait(
        _ entries: UnsafeMutablePointer<pollfd>, _ count: Int, _ timeout: Int, _ mask: UnsafePointer<sigset_t>?
    ) -> CInt {
        withUnsafeTemporaryAllocation(of: Watched.self, capacity: count) { watched in
            withUnsafeTemporaryAllocation(of: pollfd.self, capacity: count * 2) { asked in
                var set = PollSet(
                    entries: entries, count: count, watched: watched.baseAddress.unsafelyUnwrapped,
                    asked: asked.baseAddress.unsafelyUnwrapped)
                for i in 0..<count { set.watched[i] = Watched(session: DescriptorTable.hold(entries[i].fd)) }
                let result = set.wait(timeout, mask)
                for i in 0..<count { set.watched[i].session?.drop() }
                return result
            }
        }
    }

    private mutating func wait(_ timeout: Int, _ mask: UnsafePointer<sigset_t>?) -> CInt {
        let deadline = timeout > 0 ? libc_nanoseconds() &+ UInt64(timeout) : 0
        // While marked as waited for in the kernel, a session's announcement is not accepted behind this thread's back.
        mark(1)
        defer { mark(-1) }
        while true {
            arrange()
            if bells > 0 {
                if timeout == 0 || anyReady { return look() }
                var rounds: UInt32 = 0
                let found =
                    maySpin
                    && Spin.until {
                        rounds &+= 1
                        return anyReady || (rounds & 31 == 0 && sys_poll(asked, nfds_t(count), 0) > 0)
                    }
                if found { return look() }
                arm()
                if anyReady { return look() }
            }
            let begin = libc_ticks()
            let isAlone = sleep(1)
            var left = timeout
            if timeout > 0 {
                let now = libc_nanoseconds()
                left = now >= deadline ? 0 : Int(deadline &- now)
            }
            // Others who sleep on one of these doorbells may silence it before this thread looks: look every millisecond.
            var isCut = !isAlone && (left < 0 || left > 1_000_000)
            if isCut { left = 1_000_000 }
            let error = libc_errno()
            var result = ask(left, mask)
            if result < 0, bells > 0, libc_errno() == EINVAL {
                // poll(2) takes no more entries than RLIMIT_NOFILE, and the doorbells were too many.
                isCut = !leaveOutEntries() && (left < 0 || left > 1_000_000) || isCut
                if isCut { left = 1_000_000 }
                libc_set_errno(error)
                result = ask(left, mask)
            }
            if result < 0 {
                _ = sleep(-1)
                return result
            }
            Spin.learn(slept: libc_ticks() &- begin)
            let ready = report(mySleep: 1)
            _ = sleep(-1)
            if ready != 0 || (result == 0 && !isCut) { return ready }
        }
    }

    private func ask(_ nanoseconds: Int, _ mask: UnsafePointer<sigset_t>?) -> CInt {
        var limit = timespec(
            tv_sec: max(0, nanoseconds) / 1_000_000_000, tv_nsec: max(0, nanoseconds) % 1_000_000_000)
        return withUnsafePointer(to: &limit) {
            real_ppoll(asked, nfds_t(count + bells), nanoseconds < 0 ? nil : $0, mask)
        }
    }

    /// Leaves out what the doorbell tells as well: an aware peer rings for whatever it does to a connection that is wholly on the
    /// companion. False: a session with one direction on TCP needs both, and lacks its doorbell.
    private mutating func leaveOutEntries() -> Bool {
        var isComplete = true
        for i in 0..<count where watched[i].isFollowed {
            let session = watched[i].session.unsafelyUnwrapped
            if session.receivesOnCompanion, session.sendsOnCompanion {
                asked[i] = pollfd(fd: session.pointee.doorbell, events: CShort(POLLIN), revents: 0)
                watched[i].isBellAlone = true
            } else {
                isComplete = false
            }
        }
        bells = 0
        return isComplete
    }

    /// Counts this thread among the sleepers of its sessions, or no longer; whether nobody else sleeps there.
    private func sleep(_ change: Int) -> Bool {
        var isAlone = true
        for i in 0..<count where watched[i].isFollowed {
            let before = watched[i].session.unsafelyUnwrapped.state.pointee.sleepers.wrappingAdd(
                UInt32(truncatingIfNeeded: change), ordering: .sequentiallyConsistent
            ).oldValue
            if before > 0 { isAlone = false }
        }
        return isAlone
    }

    private func mark(_ change: Int) {
        for i in 0..<count {
            guard let session = watched[i].session else { continue }
            session.state.pointee.receive.inKernel.wrappingAdd(
                UInt32(truncatingIfNeeded: change), ordering: .sequentiallyConsistent)
        }
    }

    /// Fills `asked` from the program's entries and the paths of the moment.
    private mutating func arrange() {
        bells = 0
        for i in 0..<count {
            asked[i] = entries[i]
            asked[i].revents = 0
            if watched[i].session == nil { arrangeSet(i) }
            guard let session = watched[i].session else { continue }
            session.returnBeforeSleep()
            watched[i].isBellAlone = false
            watched[i].isFollowed = session.usesCompanion
            guard watched[i].isFollowed else { continue }
            let wanted = wantedBits(i)
            var events = wanted & Readiness.priority
            if session.receivesOnCompanion {
                if wanted & (Readiness.input | Readiness.readHangup) != 0 { events |= Readiness.readHangup }
            } else {
                events |= wanted & ~Readiness.output
            }
            if !session.sendsOnCompanion { events |= wanted & Readiness.output }
            asked[i].events = CShort(bitPattern: UInt16(truncatingIfNeeded: events))
            asked[count + bells] = pollfd(fd: session.pointee.doorbell, events: CShort(POLLIN), revents: 0)
            bells &+= 1
        }
    }

    /// A set with sessions says exactly what is true when asked; its annex wakes this thread to ask again.
    private mutating func arrangeSet(_ i: Int) {
        watched[i].set = nil
        guard let set = DescriptorTable.slot(entries[i].fd).epollSet, set.isFollowed else { return }
        watched[i].set = set
        asked[count + bells] = pollfd(fd: set.watch(), events: CShort(POLLIN), revents: 0)
        bells &+= 1
    }

    /// The kernel's word on an epoll set, once the set knows of its sessions. It may have got its first one meanwhile.
    private func confirmSet(_ i: Int, _ bits: UInt32, mayHaveChanged: Bool) -> UInt32 {
        guard bits != 0 || mayHaveChanged, let set = DescriptorTable.slot(entries[i].fd).epollSet, set.isFollowed else {
            return bits
        }
        _ = set.watch()
        var entry = entries[i]
        entry.revents = 0
        return sys_poll(&entry, 1, 0) > 0 ? UInt32(UInt16(bitPattern: entry.revents)) : 0
    }

    private func wantedBits(_ i: Int) -> UInt32 { UInt32(UInt16(bitPattern: entries[i].events)) }

    private func readiness(_ i: Int, kernelSpoke: Bool) -> UInt32 {
        let session = watched[i].session.unsafelyUnwrapped
        let wanted = wantedBits(i)
        let isMixed = !session.receivesOnCompanion || (!session.sendsOnCompanion && wanted & Readiness.output != 0)
        return session.readiness(askKernel: kernelSpoke || isMixed) & (wanted | Readiness.always)
    }

    private var anyReady: Bool {
        for i in 0..<count where watched[i].isFollowed && readiness(i, kernelSpoke: false) != 0 { return true }
        return false
    }

    private var maySpin: Bool {
        for i in 0..<count where watched[i].isFollowed { return watched[i].session.unsafelyUnwrapped.maySpin }
        return false
    }

    private func arm() {
        for i in 0..<count where watched[i].isFollowed {
            let session = watched[i].session.unsafelyUnwrapped
            if session.receivesOnCompanion { session.armReceiver() }
            if session.sendsOnCompanion, wantedBits(i) & Readiness.output != 0 { session.armSender() }
        }
    }

    /// Asks the kernel without waiting, then reports.
    private func look() -> CInt {
        _ = sys_poll(asked, nfds_t(count), 0)
        for bell in 0..<bells { asked[count + bell].revents = 0 }
        return report()
    }

    /// Writes the program's entries from the kernel's answer and the rings; how many are ready.
    private func report(mySleep: UInt32 = 0) -> CInt {
        var ready: CInt = 0
        var bell = count
        let hasBells = bells > 0
        for i in 0..<count {
            var bits = UInt32(UInt16(bitPattern: asked[i].revents))
            if watched[i].isFollowed {
                let session = watched[i].session.unsafelyUnwrapped
                let rang = watched[i].isBellAlone ? asked[i].revents != 0 : hasBells && asked[bell].revents != 0
                if rang,
                    session.state.pointee.sleepers.load(ordering: .sequentiallyConsistent) == mySleep
                {
                    session.silenceDoorbell()
                    session.tellEpollSets()
                }
                bell &+= 1
                bits = readiness(i, kernelSpoke: bits != 0)
            } else if watched[i].session == nil {
                let hasBell = watched[i].set != nil
                bits = confirmSet(i, bits, mayHaveChanged: hasBell && asked[bell].revents != 0)
                if hasBell { bell &+= 1 }
            }
            entries[i].revents = CShort(bitPattern: UInt16(truncatingIfNeeded: bits))
            if bits != 0 { ready &+= 1 }
        }
        return ready
    }
}
