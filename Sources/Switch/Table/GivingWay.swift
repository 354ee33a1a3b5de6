import CLibc
import Libc
import Synchronization

// The program needs a number that one of our descriptors has. Whoever owns the descriptor learns a new number, and everybody
// who uses it has read that before the program gets the old one:
//
// 1. the file is open under the new number as well; epoll sets that watch it watch the new number instead of the old one;
// 2. the owner is told, and waits until no call is under way that has read the old number; calls that sleep in the kernel hold
//    the file itself and may stay there;
// 3. a dead socket replaces the file under the old number, so that a thread which was just about to fall asleep on it does not;
// 4. the program's call replaces the dead socket.

extension HiddenDescriptors {
    /// What the owner of a number made of the request.
    enum Answer {
        case notMine
        case done
        /// Threads may sleep under the old number, or be about to.
        case doneWithSleepers
    }

    /// Moves what is ours at `number`, or ends it if there is no other number. True: the next dup2 of the program replaces at most
    /// a dead socket there.
    static func vacate(_ number: CInt) -> Bool {
        guard enter() else { return false }
        defer { leave() }
        guard isHidden(number) else { return true }
        var answer = move(number)
        if answer == .notMine {
            // No other number: it goes. Connections go before the broker's, whose thread they need for that.
            if !Broker.owns(number), giveUp(number) {
                answer = .done
            } else if giveUpBelow(DescriptorTable.end) {
                answer = isHidden(number) ? move(number) : .done
            }
            if answer == .notMine, !isHidden(number) || giveUp(number) { answer = .done }
        }
        guard answer != .notMine else { return false }
        if isHidden(number) { bury(number) }
        if answer == .doneWithSleepers { letSleepersGo() }
        return true
    }

    private static func move(_ number: CInt) -> Answer {
        let new = copy(number, replacing: true)
        guard new >= 0 else { return .notMine }
        let answer = owner(of: number, takes: new)
        if answer == .notMine { close(new) }
        return answer
    }

    /// The program's call failed because all numbers are taken. True: fewer are ours than before, and it is worth another try.
    static func makeRoom() -> Bool {
        guard enter() else { return false }
        defer { leave() }
        // The switch thread takes a low number for a moment: not while this lock is held.
        let mayHaveDisturbed = Broker.settle()
        let limit = limits()
        let end = min(DescriptorTable.end, CInt(truncatingIfNeeded: limit.soft))
        if moveBeyond(end, limit) { return true }
        return giveUpBelow(end) || mayHaveDisturbed
    }

    /// The program has raised its soft limit since: ours follow.
    private static func moveBeyond(_ end: CInt, _ limit: (soft: rlim_t, hard: rlim_t)) -> Bool {
        withUnsafeTemporaryAllocation(of: CInt.self, capacity: 32) { moved in
            var count = 0
            var sleepers = false
            for fd in 0..<end where count < moved.count && isHidden(fd) {
                let new = copyBeyond(fd, limit)
                guard new >= 0 else { break }
                guard new < DescriptorTable.capacity else {
                    _ = sys_close(new)
                    break
                }
                hide(new)
                let answer = owner(of: fd, takes: new)
                if answer == .notMine {
                    close(new)
                    continue
                }
                if answer == .doneWithSleepers { sleepers = true }
                bury(fd)
                moved[count] = fd
                count &+= 1
            }
            if sleepers { letSleepersGo() }
            for i in 0..<count { _ = sys_close(moved[i]) }
            return count > 0
        }
    }

    /// Ends some of ours, those first that are missed least.
    private static func giveUpBelow(_ end: CInt) -> Bool {
        guard let first = (0..<end).first(where: { isHidden($0) }) else { return false }
        bar()
        var count = 0
        forEachHeldSession {
            if count < 16, $0.giveUpCompanion(below: end) { count &+= 1 }
        }
        if count > 0 { return true }
        for fd in first..<max(first, end) where isHidden(fd) {
            if fd != settings.log, giveUp(fd) { return true }
        }
        return settings.log > 2 && settings.log < end && giveUp(settings.log)
    }

    /// Tells the owner of `number` to use `new` from now on; it may be about to note down the number, and is waited for.
    private static func owner(of number: CInt, takes new: CInt) -> Answer {
        for attempt in 0..<100 {
            guard isHidden(number) else { return .notMine }
            let answer = ask(number, new)
            if answer != .notMine { return answer }
            if attempt > 0 { pause(milliseconds: 1) }
        }
        return .notMine
    }

    private static func ask(_ number: CInt, _ new: CInt) -> Answer {
        if Log.renumber(number, new) || SessionArena.renumber(number, new) { return .done }
        // A companion goes from the broker to a session, never back.
        if Broker.renumber(number, new) || EpollSetRef.renumberKick(number, new) { return .done }
        var answer = Answer.notMine
        forEachHeldSession { if answer == .notMine { answer = $0.renumber(number, new) } }
        return answer
    }

    /// Ends the descriptor `number`, whoever owns it.
    private static func giveUp(_ number: CInt) -> Bool {
        if Log.renumber(number, -1) || SessionArena.renumber(number, -1) || EpollSetRef.renumberKick(number, -1) {
            close(number)
            return true
        }
        if Broker.owns(number) { return Broker.giveUp() }
        var isDone = false
        forEachHeldSession {
            if !isDone, $0.ownsDescriptor(number) { isDone = $0.giveUpCompanion(below: number &+ 1) }
        }
        return isDone
    }

    /// Puts a dead socket in the place of a file of ours that lives on elsewhere: recv fails there at once, poll sees a hang-up.
    private static func bury(_ number: CInt) {
        let dead = sys_socket(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        if dead >= 0 {
            _ = sys_dup3(CInt(dead), number, O_CLOEXEC)
            _ = sys_close(CInt(dead))
        }
        DescriptorTable.exchange(number, .empty)
    }

    private static func forEachHeldSession(_ body: (SessionRef) -> Void) {
        for fd in 0..<DescriptorTable.highWater {
            guard let session = DescriptorTable.hold(fd) else { continue }
            if session.descriptor == fd { body(session) }
            session.drop()
        }
    }

    /// Gives the program's new descriptor `fd` the number that has just been vacated, or is free.
    static func rename(_ fd: CInt, _ number: CInt) -> CInt {
        let flags = sys_fcntl(fd, F_GETFD, 0) & Int(FD_CLOEXEC) != 0 ? O_CLOEXEC : 0
        guard sys_dup3(fd, number, flags) >= 0 else {
            _ = sys_close(number)
            return fd
        }
        _ = sys_close(fd)
        return number
    }

    /// Time for a thread that has read the old number to reach the kernel with it, and to come back from the dead socket.
    private static func letSleepersGo() { pause(milliseconds: 5) }

    static func pause(milliseconds: CInt) { _ = sys_poll(nil, 0, milliseconds) }
}

/// A call that makes a descriptor for the program; once more if ours stood in its way. The program gets the number that it would
/// get without us.
@inline(__always)
func withRoom(_ call: () -> CInt) -> CInt {
    var fd = call()
    if fd < 0, libc_errno() == EMFILE, switch_make_room() { fd = call() }
    return switch_settle(fd)
}

@c @implementation
public func switch_make_room() -> Bool {
    guard DescriptorTable.slots != nil, Process.isOwn else { return false }
    let result = HiddenDescriptors.makeRoom()
    libc_set_errno(EMFILE)
    return result
}

@c @implementation
public func switch_settle(_ fd: CInt) -> CInt {
    let number = HiddenDescriptors.number(before: fd)
    guard number >= 0, Process.isOwn, HiddenDescriptors.vacate(number) else { return fd }
    return HiddenDescriptors.rename(fd, number)
}

@c @implementation
public func switch_settle_pair(_ fds: UnsafeMutablePointer<CInt>?) {
    guard let fds else { return }
    let (first, second) = (fds[0], fds[1])
    fds[0] = switch_settle(first)
    fds[1] = switch_settle(second)
    // The first one may have left a number free.
    if fds[0] != first, first < fds[1] { fds[1] = HiddenDescriptors.rename(fds[1], first) }
}
