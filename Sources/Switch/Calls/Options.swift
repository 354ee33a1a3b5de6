import CLibc
import CProvider
import Libc
import SessionState
import Synchronization
import Wire

// shutdown(2), getsockopt(2), setsockopt(2), ioctl(2): TCP answers; the companion is told what concerns it.

@c @implementation
public func switch_shutdown(_ fd: CInt, _ how: CInt) -> CInt {
    guard let session = DescriptorTable.hold(fd) else { return real_shutdown(fd, how) }
    defer { session.drop() }
    let writes = how == CInt(SHUT_WR) || how == CInt(SHUT_RDWR)
    if writes {
        session.sending.lock()
        session.sendAgainBeforeEnd()
    }
    let result = real_shutdown(fd, how)
    if result == 0, writes {
        session.state.pointee.send.isShut.store(1, ordering: .relaxed)
        session.pointee.outbox?.pointee.finished.store(1, ordering: .releasing)
        session.pushSender()
        // The peer's reader may sleep on the companion, where no FIN arrives.
        if session.stage == Session.Stage.attached {
            _ = session.pointee.provider.ringDoorbell(session.pointee.companion)
        }
    }
    if writes { session.sending.unlock() }
    if result == 0, how == CInt(SHUT_RD) || how == CInt(SHUT_RDWR) {
        session.state.pointee.receive.isShut.store(1, ordering: .sequentiallyConsistent)
        if session.stage == Session.Stage.attached,
            session.state.pointee.sleepers.load(ordering: .sequentiallyConsistent) > 0
        {
            session.pointee.provider.interrupt(session.pointee.companion)
        }
    }
    if result == 0 { session.pathChanged() }
    return result
}

@c @implementation
public func switch_getsockopt(
    _ fd: CInt, _ level: CInt, _ name: CInt, _ value: UnsafeMutableRawPointer?,
    _ length: UnsafeMutablePointer<socklen_t>?
) -> CInt {
    let result = real_getsockopt(fd, level, name, value, length)
    if result == 0, level == SOL_SOCKET, name == SO_ERROR, let value, let session = DescriptorTable.hold(fd) {
        let error = session.takePendingError()
        if error != 0 { value.storeBytes(of: error, as: CInt.self) }
        session.drop()
    }
    return result
}

@c @implementation
public func switch_setsockopt(_ fd: CInt, _ level: CInt, _ name: CInt, _ value: UnsafeRawPointer?, _ length: socklen_t)
    -> CInt
{
    guard let session = DescriptorTable.hold(fd) else {
        let result = real_setsockopt(fd, level, name, value, length)
        if result == 0, DescriptorTable.slot(fd).isFresh {
            DescriptorTable.note(StoredOptions.bit(level, name), of: fd)
        }
        return result
    }
    defer { session.drop() }
    // kTLS takes the stream over inside the kernel.
    if level == CInt(IPPROTO_TCP), name == TCP_ULP { session.returnToKernel(.unsupportedOption) }
    let result = real_setsockopt(fd, level, name, value, length)
    guard result == 0 else { return result }
    session.pointee.options.bitwiseOr(StoredOptions.bit(level, name), ordering: .relaxed)
    guard level == SOL_SOCKET else { return result }
    if name == SO_RCVTIMEO || name == SO_SNDTIMEO { session.readTimeouts() }
    if name == SO_RCVLOWAT, let value, length >= 4 {
        session.state.pointee.lowWater.store(
            UInt64(max(1, min(value.loadUnaligned(as: CInt.self), CInt(Limits.maximumRing / 2)))), ordering: .relaxed)
    }
    return result
}

@c @implementation
public func switch_ioctl(_ fd: CInt, _ request: UInt, _ argument: UnsafeMutableRawPointer?) -> CInt {
    guard let session = DescriptorTable.hold(fd) else {
        return HiddenDescriptors.isHidden(fd) && !libc_is_provider() ? fail(EBADF) : real_ioctl(fd, request, argument)
    }
    defer { session.drop() }
    let result = real_ioctl(fd, request, argument)
    guard result == 0, let argument else { return result }
    if request == libc_fionbio() {
        session.state.pointee.isNonBlocking.store(argument.load(as: CInt.self) != 0 ? 1 : 0, ordering: .relaxed)
    } else if request == libc_fionread(), session.stage == Session.Stage.attached {
        let onTCP = UInt64(UInt32(bitPattern: argument.load(as: CInt.self)))
        argument.storeBytes(
            of: CInt(truncatingIfNeeded: min(session.unread(onTCP: onTCP), UInt64(CInt.max))), as: CInt.self)
    }
    return result
}

extension UnsafeMutablePointer where Pointee == Session {
    /// Bytes that can be received now, of which `onTCP` wait in the kernel's queue.
    fileprivate func unread(onTCP: UInt64) -> UInt64 {
        let all = min(ringBytes, pointee.inboxRing &+ Limits.smallRing)
        switch state.pointee.receive.onPath {
        case .kernel, .returned, .asking: return onTCP
        case .draining: return onTCP &+ (all > bytesBeforeRing ? all &- bytesBeforeRing : 0)
        case .companion: return intervalHasEnd ? onTCP &+ all : all
        }
    }
}
