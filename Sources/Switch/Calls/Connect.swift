import CLibc
import Configuration
import Libc
import SessionState
import Synchronization

// socket(2), bind(2), listen(2), accept(2), connect(2): TCP does them all; the switch takes note.

@c @implementation
public func switch_socket(_ domain: CInt, _ type: CInt, _ protocolNumber: CInt) -> CInt {
    let fd = withRoom { real_socket(domain, type, protocolNumber) }
    guard fd >= 0, domain == AF_INET || domain == AF_INET6, type & 0xf == CInt(SOCK_STREAM.rawValue),
        protocolNumber == 0 || protocolNumber == CInt(IPPROTO_TCP), settings.isOn, Process.prepare()
    else { return fd }
    DescriptorTable.exchange(fd, .fresh)
    return fd
}

@c @implementation
public func switch_bind(_ fd: CInt, _ address: UnsafePointer<sockaddr>?, _ length: socklen_t) -> CInt {
    real_bind(fd, address, length)
}

@c @implementation
public func switch_listen(_ fd: CInt, _ backlog: CInt) -> CInt {
    let result = real_listen(fd, backlog)
    guard result == 0, settings.isOn else { return result }
    let slot = DescriptorTable.slot(fd)
    if slot.kind == .fresh || slot.session != nil {
        slot.session?.forget(fd)
        Listeners.opened(fd)
        slot.session?.drop()
    } else if slot == .empty, isTCP(fd) {
        // Bound by another program and inherited (socket activation).
        Listeners.opened(fd)
    }
    return result
}

/// By the kernel's word: the table may be behind when libc closed a number by itself.
func isTCP(_ fd: CInt) -> Bool {
    var value: CInt = 0
    var length = socklen_t(4)
    guard sys_getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &value, &length) == 0 else { return false }
    return value == CInt(IPPROTO_TCP)
}

@c @implementation
public func switch_accept(
    _ fd: CInt, _ address: UnsafeMutablePointer<sockaddr>?, _ length: UnsafeMutablePointer<socklen_t>?
) -> CInt {
    accepted(withRoom { real_accept(fd, address, length) }, from: fd)
}

@c @implementation
public func switch_accept4(
    _ fd: CInt, _ address: UnsafeMutablePointer<sockaddr>?, _ length: UnsafeMutablePointer<socklen_t>?, _ flags: CInt
) -> CInt { accepted(withRoom { real_accept4(fd, address, length, flags) }, from: fd) }

@inline(__always)
private func accepted(_ fd: CInt, from listening: CInt) -> CInt {
    guard fd >= 0, let listener = DescriptorTable.slot(listening).listener else { return fd }
    if let session = SessionRef.open(fd, role: 2) {
        session.pointee.listener = listener
        listener.pointee.sessions.wrappingAdd(1, ordering: .relaxed)
    }
    return fd
}

@c @implementation
public func switch_connect(_ fd: CInt, _ address: UnsafePointer<sockaddr>?, _ length: socklen_t) -> CInt {
    let slot = DescriptorTable.slot(fd)
    guard slot.kind == .fresh || slot.session != nil else { return real_connect(fd, address, length) }
    let result = real_connect(fd, address, length)
    let error = result == 0 ? 0 : libc_errno()
    if let session = slot.session {
        // connect(2) to AF_UNSPEC dissolves the association; anything later is a new stream that the switch did not count.
        if result == 0, let address, length >= 2, address.pointee.sa_family == sa_family_t(AF_UNSPEC) {
            session.stayOnKernel(.connectionClosed)
        }
        _ = session.state.pointee.role.compareExchange(expected: 0, desired: 1, ordering: .relaxed)
    } else if result == 0 || error == EINPROGRESS || error == EINTR {
        if let session = SessionRef.open(fd, role: 1), let address,
            let server = SocketAddress(address, length: Int(length)), !Rules.allow(.connect, server)
        {
            session.stayOnKernel(.ruledOut)
        }
        libc_set_errno(result == 0 ? libc_errno() : error)
    }
    return result
}
