import CLibc
import CProvider
import Libc
import SessionState
import Synchronization
import Wire

/// The client's side of the rendezvous, and who is known to be unaware.
enum Proposal {
    /// The server that refused last: a hash of its address and port in the high half, the time until which it is taken to be
    /// unaware in the low one, milliseconds. One word, for threads that meet here. A collision costs a wait, no error.
    private static let refused = Atomic<UInt64>(0)
    private static let timeBits: UInt64 = (1 << 32) - 1

    private static func key(_ server: SocketAddress) -> UInt64 {
        ((server.high ^ server.low) &+ UInt64(server.port)) &* 0x9e37_79b9_7f4a_7c15 & ~timeBits
    }

    private static func refuses(_ server: SocketAddress) -> Bool {
        let word = refused.load(ordering: .relaxed)
        guard word & ~timeBits == key(server) else { return false }
        let now = UInt32(truncatingIfNeeded: libc_nanoseconds() / 1_000_000)
        return Int32(bitPattern: UInt32(truncatingIfNeeded: word) &- now) > 0
    }

    /// Proposes a companion for a connected client session, of the first suitable provider that finds the peer aware. Nil:
    /// proposed, or about to be; else why not.
    static func make(_ session: SessionRef) -> Reason? {
        let tuple = session.pointee.tuple
        if refuses(tuple.peer) { return .peerUnaware }
        var reason = Reason.peerNotOnThisHost
        var provider = Providers.suitable(after: nil, tuple.local, tuple.peer)
        while let candidate = provider {
            guard let failure = make(session, candidate) else { return nil }
            reason = failure
            provider = Providers.suitable(after: candidate, tuple.local, tuple.peer)
        }
        if reason == .peerUnaware { refuse(tuple.peer) }
        return reason
    }

    /// What a provider's -errno means for the connection.
    static func reason(_ failure: CInt) -> Reason {
        switch 0 &- failure {
        case ENODEV: .deviceLost
        case EHOSTUNREACH, ENETUNREACH, ETIMEDOUT: .peerUnreachable
        case ENOMEM: .lockedMemoryExhausted
        case ENOBUFS: .queuesExhausted
        case ENOTSUP: .sharesTcpPorts
        case ENOENT: .noVerbsLibraries
        case EPROTO: .malformedMessage
        default: .peerUnaware
        }
    }

    static func refuse(_ server: SocketAddress) {
        let until = (libc_nanoseconds() &+ Limits.unawareNanoseconds) / 1_000_000
        refused.store(key(server) | until & timeBits, ordering: .relaxed)
    }

    private static func make(_ session: SessionRef, _ provider: ProviderRef) -> Reason? {
        var companion: san_socket = 0
        let opened = provider.socket(&companion)
        guard opened == 0 else {
            return opened == -EMFILE || opened == -ENFILE
                ? .descriptorsExhausted : opened == -ENOMEM ? .memoryExhausted : .companionFailed
        }
        session.pointee.provider = provider
        session.pointee.companion = companion
        // At once, to the TCP socket's own address and port, both known by now; then the options; then what brought it about.
        let stored = StoredOptions(bits: session.pointee.options.load(ordering: .relaxed))
        guard provider.bind(companion, session.pointee.tuple.local) == 0,
            stored.replay(from: session.descriptor, on: companion, of: provider) == 0
        else {
            session.releaseCompanion()
            return .companionFailed
        }
        let connected = provider.connect(companion, session.pointee.tuple.peer)
        if connected == -EINPROGRESS {
            session.pointee.isConnecting = true
            log("companion connecting", session.descriptor)
            return nil
        }
        guard connected == 0 else {
            session.releaseCompanion()
            return reason(connected)
        }
        return send(session)
    }

    /// The companion is connected: says which TCP connection it belongs to. Nil: done; else why not, and the companion is gone.
    static func send(_ session: SessionRef) -> Reason? {
        guard
            PeerCheck.mayActFor(
                session.pointee.tuple.reversed, companion: session.pointee.companion, of: session.pointee.provider)
        else {
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
