import CLibc
import CProvider
import Libc
import SessionState
import Synchronization
import Wire

/// The client's side of the rendezvous, and who is known to be unaware.
enum Rendezvous {
    /// Servers that refused lately, by hash of address and port: until when, nanoseconds. A collision costs a wait, no error.
    nonisolated(unsafe) private static var refused: (key: UInt64, until: UInt64) = (0, 0)

    /// Proposes a companion for a connected client session. Nil: proposed; else why not.
    static func propose(_ session: SessionRef) -> Reason? {
        let server = session.pointee.tuple.peer
        let key = server.high ^ server.low &* 31 ^ UInt64(server.port) << 48
        if refused.key == key, libc_nanoseconds() < refused.until { return .peerUnaware }
        var companion: san_socket = 0
        var tcp = san_protocol(family: AF_INET, type: CInt(SOCK_STREAM.rawValue), protocol: CInt(IPPROTO_TCP))
        let opened = Process.provider.socket(&tcp, &companion)
        guard opened == 0 else {
            return opened == -EMFILE || opened == -ENFILE ? .descriptorsExhausted : .memoryExhausted
        }
        let connected = server.withSocketAddress {
            Process.provider.connect(companion, $0.assumingMemoryBound(to: sockaddr.self), $1)
        }
        session.pointee.companion = companion
        guard connected == 0 else {
            session.releaseCompanion()
            refused = (key, libc_nanoseconds() &+ Limits.unawareNanoseconds)
            return .peerUnaware
        }
        guard PeerCheck.mayActFor(session.pointee.tuple.reversed, companion: companion) else {
            session.releaseCompanion()
            return .peerNotOwner
        }
        var proposal = Message(kind: .proposal, tuple: session.pointee.tuple)
        withUnsafeMutableBytes(of: &session.pointee.nonce) {
            _ = getrandom($0.baseAddress!, $0.count, UInt32(GRND_NONBLOCK))
        }
        proposal.nonce = session.pointee.nonce
        guard session.expose(&proposal), session.transmit(proposal) else {
            session.releaseCompanion()
            return .memoryExhausted
        }
        log("companion proposed", session.descriptor)
        return nil
    }
}
