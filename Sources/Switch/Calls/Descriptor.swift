import CLibc
import Libc
import SessionState
import Synchronization

// close(2), dup(2), fcntl(2) and relatives: one session, however many descriptor numbers.

extension UnsafeMutablePointer where Pointee == Session {
    /// `fd` has become another name of this session.
    func adopt(_ fd: CInt) {
        guard UInt32(bitPattern: fd) < UInt32(DescriptorTable.capacity) else {
            return stayOnKernel(.descriptorsExhausted)
        }
        pointee.holds.wrappingAdd(1, ordering: .acquiringAndReleasing)
        pointee.descriptors.wrappingAdd(1, ordering: .relaxed)
        DescriptorTable.exchange(fd, Slot(self))
        // libc's own streams read and write these numbers past every name that can be taken over.
        if fd <= 2 { returnToKernel(.stdio) }
    }

    /// `fd` is about to stop naming this session; its place in the table is empty already or given away.
    func forget(_ fd: CInt) {
        if pointee.descriptors.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue == 0 {
            prepareToClose()
            // The number may soon be another file's: calls still inside must not use it.
            pointee.descriptor.store(Session.closedDescriptor, ordering: .releasing)
        } else if descriptor == fd {
            for other in 0..<DescriptorTable.highWater where other != fd && DescriptorTable.slot(other).session == self
            {
                pointee.descriptor.store(other, ordering: .releasing)
                break
            }
        }
    }

    /// The last thing before the kernel closes the TCP socket.
    func prepareToClose() {
        if settings.log >= 0 { logCounts() }
        guard stage == Session.Stage.attached, state.liveHolders <= 1 else { return }
        sending.lock()
        sendAgainBeforeEnd()
        sending.unlock()
        abortIfUnread()
        // Tells a close from a death (companionHasEnded).
        pointee.outbox?.pointee.finished.store(1, ordering: .releasing)
        pushSender()
    }

    /// What each path carried, and the kernel's own word for TCP's share.
    private func logCounts() {
        func companion(_ direction: borrowing DirectionState) -> UInt64 {
            direction.offset.load(ordering: .relaxed) &- direction.kernelBytes.load(ordering: .relaxed)
        }
        log(
            "closed, companion bytes sent received", descriptor, companion(state.pointee.send),
            companion(state.pointee.receive))
        log("closed, TCP_INFO bytes sent received", descriptor, kernelBytesSent() ?? 0, bytesArrived() ?? 0)
    }

    /// tcp(7): closing with unread bytes resets the connection. TCP does not know of bytes in the ring, so it is told to.
    private func abortIfUnread() {
        guard receivesOnCompanion, ringBytes > 0 else { return }
        var linger = CLibc.linger(l_onoff: 1, l_linger: 0)
        _ = sys_setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<CLibc.linger>.size))
    }
}

/// What `fd` named is gone or replaced. `slot` was taken out of the table before the real call, since the number may be
/// reused by another thread at once.
private func dismiss(_ slot: Slot, _ fd: CInt) {
    if let session = slot.session { session.drop() }
    if let listener = slot.listener { Listeners.closed(listener) }
    if let set = slot.epollSet { set.closed(fd) }
}

@c @implementation
public func switch_close(_ fd: CInt) -> CInt {
    let slot = DescriptorTable.slot(fd)
    if slot == .empty { return real_close(fd) }
    // A vfork child has its own descriptors, and may do with them what it likes.
    guard Process.isOwn else { return real_close(fd) }
    if slot == .hidden { return fail(EBADF) }
    let taken = DescriptorTable.exchange(fd, .empty)
    taken.session?.forget(fd)
    let result = real_close(fd)
    let error = libc_errno()
    dismiss(taken, fd)
    if result < 0 { libc_set_errno(error) }
    return result
}

/// fclose(3) is about to close `fd` past every name that can be taken over.
@c @implementation
public func switch_closed_by_libc(_ fd: CInt) {
    let slot = DescriptorTable.slot(fd)
    guard slot.session != nil || slot.isFresh, Process.isOwn else { return }
    let taken = DescriptorTable.exchange(fd, .empty)
    taken.session?.forget(fd)
    dismiss(taken, fd)
}

@c @implementation
public func switch_close_range(_ first: UInt32, _ last: UInt32, _ flags: CInt) -> CInt {
    if settings.log > 2 { _ = DescriptorTable.create() }
    guard DescriptorTable.slots != nil, first <= last, flags & ~CInt(CLOSE_RANGE_UNSHARE) == 0, Process.isOwn else {
        return real_close_range(first, last, flags)
    }
    // Ours stay open: the ranges between them are closed by the kernel, the program's known ones one by one.
    var start = first
    let end = UInt32(bitPattern: DescriptorTable.end)
    for fd in first..<max(first, min(last, end &- 1) &+ 1) where end > 0 {
        let slot = DescriptorTable.slot(CInt(bitPattern: fd))
        if slot == .empty { continue }
        if slot.isBare {
            DescriptorTable.exchange(CInt(bitPattern: fd), .empty)
            continue
        }
        if fd > start, real_close_range(start, fd - 1, flags) < 0 { return -1 }
        if slot != .hidden { _ = switch_close(CInt(bitPattern: fd)) }
        start = fd + 1
    }
    return start <= last ? real_close_range(start, last, flags) : 0
}

@c @implementation
public func switch_closefrom(_ first: CInt) { _ = switch_close_range(UInt32(max(0, first)), UInt32.max, 0) }

/// `to` has become a copy of `from` by a successful real call.
private func copied(_ from: CInt, _ to: CInt) {
    let slot = DescriptorTable.slot(from)
    if slot == .empty { return }
    if slot.isFresh {
        // Two names for a socket that has no session yet: neither is followed, for one would move bytes past the other.
        DescriptorTable.exchange(from, .empty)
        return
    }
    guard Process.isOwn else {
        // A vfork child about to exec: whoever reads `to` next knows nothing of a companion.
        slot.session?.returnToKernel(.exec)
        return
    }
    let error = libc_errno()
    if slot == .plainSet { _ = EpollSetRef.of(from) }
    if let session = DescriptorTable.hold(from) {
        session.adopt(to)
        session.drop()
    } else if let listener = slot.listener {
        listener.pointee.descriptors.wrappingAdd(1, ordering: .relaxed)
        DescriptorTable.exchange(to, slot)
    } else if let set = DescriptorTable.slot(from).epollSet {
        set.pointee.descriptors.wrappingAdd(1, ordering: .relaxed)
        DescriptorTable.exchange(to, Slot(set))
    }
    libc_set_errno(error)
}

@c @implementation
public func switch_dup(_ fd: CInt) -> CInt {
    if HiddenDescriptors.isHidden(fd) { return fail(EBADF) }
    let copy = withRoom { real_dup(fd) }
    if copy >= 0 { copied(fd, copy) }
    return copy
}

private func replace(_ from: CInt, _ to: CInt, _ real: () -> CInt) -> CInt {
    if HiddenDescriptors.isHidden(from) { return fail(EBADF) }
    let isSame = from == to
    let mayReplace =
        !isSame && DescriptorTable.slot(to) != .empty && Process.isOwn && sys_fcntl(from, F_GETFD, 0) >= 0
        && rlim_t(to) < HiddenDescriptors.limits().soft
    let isOurs = mayReplace && HiddenDescriptors.isHidden(to)
    // Nobody of ours could be asked for the number: what the kernel says when it is being opened at the same time.
    if isOurs, !HiddenDescriptors.vacate(to) { return fail(EBUSY) }
    let taken = mayReplace ? DescriptorTable.exchange(to, .empty) : .empty
    taken.session?.forget(to)
    let result = real()
    let error = libc_errno()
    if result < 0, isOurs { _ = sys_close(to) }
    dismiss(taken, to)
    if result >= 0, !isSame { copied(from, to) }
    libc_set_errno(error)
    return result
}

@c @implementation
public func switch_dup2(_ from: CInt, _ to: CInt) -> CInt {
    guard DescriptorTable.slots != nil else { return real_dup2(from, to) }
    return replace(from, to) { real_dup2(from, to) }
}

@c @implementation
public func switch_dup3(_ from: CInt, _ to: CInt, _ flags: CInt) -> CInt {
    guard DescriptorTable.slots != nil else { return real_dup3(from, to, flags) }
    return replace(from, to) { real_dup3(from, to, flags) }
}

/// The lowest number from `argument` on that is free but for us.
private func duplicate(_ fd: CInt, _ command: CInt, _ argument: UnsafeMutableRawPointer?) -> CInt {
    var copy = real_fcntl(fd, command, argument)
    if copy < 0, libc_errno() == EMFILE, switch_make_room() { copy = real_fcntl(fd, command, argument) }
    guard copy >= 0, Process.isOwn else { return copy }
    let first = max(0, CInt(truncatingIfNeeded: Int(bitPattern: argument)))
    for number in first..<max(first, copy) where HiddenDescriptors.isHidden(number) {
        if HiddenDescriptors.vacate(number) { return HiddenDescriptors.rename(copy, number) }
    }
    return copy
}

@c @implementation
public func switch_fcntl(_ fd: CInt, _ command: CInt, _ argument: UnsafeMutableRawPointer?) -> CInt {
    let slot = DescriptorTable.slot(fd)
    if slot == .hidden { return fail(EBADF) }
    if slot == .empty, DescriptorTable.slots == nil || (command != F_DUPFD && command != F_DUPFD_CLOEXEC) {
        return real_fcntl(fd, command, argument)
    }
    if command == F_DUPFD || command == F_DUPFD_CLOEXEC {
        let copy = duplicate(fd, command, argument)
        if copy >= 0 { copied(fd, copy) }
        return copy
    }
    let result = real_fcntl(fd, command, argument)
    guard result >= 0 else { return result }
    switch command {
    case F_SETFL:
        let isNonBlocking = Int(bitPattern: argument) & Int(O_NONBLOCK) != 0
        slot.session?.state.pointee.isNonBlocking.store(isNonBlocking ? 1 : 0, ordering: .relaxed)
    default: break
    }
    return result
}
