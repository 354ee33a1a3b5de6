import CLibc
import CProvider
import Libc
import Synchronization

/// The doorbell: the worker turns notifications into a byte on a local socket pair, of which the program waits at the near end. So
/// waiting, signals, time limits and the end are the same as on `shm`.
///
/// A notification is granted by the receiver, one at a time: the first by the connection itself, the next when the program has
/// silenced the one before. Until then the sender only writes, since a doorbell that rings need not be rung. The grant
/// goes through the sender's send queue behind everything it has written, so that nothing is left unsaid: words that went out
/// without a notification are followed by one as soon as the grant arrives.
extension UnsafeMutablePointer where Pointee == Link {
    /// Makes the near end readable. The worker's.
    func ring() {
        guard pointee.isRung.exchange(1, ordering: .sequentiallyConsistent) == 0, pointee.far >= 0 else { return }
        var byte: UInt8 = 1
        _ = sys_send(pointee.far, &byte, 1, CInt(MSG_DONTWAIT | MSG_NOSIGNAL))
    }

    /// Takes the doorbells that have arrived: 1, 0, or -EPIPE at the end.
    func silence() -> CInt {
        var bytes: (UInt64, UInt64) = (0, 0)
        let near = pointee.near
        let count = withUnsafeMutableBytes(of: &bytes) { sys_recv(near, $0.baseAddress!, $0.count, CInt(MSG_DONTWAIT)) }
        // In this order: what the worker did not ring for because of `isRung` came before the caller's next look.
        pointee.isRung.store(0, ordering: .sequentiallyConsistent)
        if pointee.hasNotification.exchange(0, ordering: .sequentiallyConsistent) != 0, !Rdma.isForeign { grant() }
        return count > 0 ? 1 : count == -Int(EAGAIN) || count == -Int(EINTR) ? 0 : -EPIPE
    }

    private func grant() {
        if pointee.lock.isMine { return pointee.hasNotification.store(1, ordering: .relaxed) }
        pointee.lock.lock()
        if pointee.phase.load(ordering: .relaxed) == Link.Phase.established {
            pointee.flow.owesGrant = true
            flush()
        }
        pointee.lock.unlock()
    }

    /// Blocks as recv(2) on the connection would: interrupted or restarted by a signal as the kernel decides (SA_RESTART).
    func wait() -> CInt {
        var byte: UInt8 = 0
        return CInt(truncatingIfNeeded: min(0, sys_recv(pointee.near, &byte, 1, CInt(MSG_PEEK))))
    }
}
