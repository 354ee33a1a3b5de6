import CLibc
import CProvider
import Libc
import SessionState
import Synchronization
import Wire

/// A companion at the broker that has not met its counterpart yet. Pooled, never freed: a stale event may name it.
struct Visitor {
    enum Kind { case free, greeting, proposal, claim }

    var kind = Kind.free
    var companion: san_socket = 0
    var provider: ProviderRef
    var message = Message(
        kind: .claim,
        tuple: ConnectionTuple(local: .init(high: 0, low: 0, port: 0), peer: .init(high: 0, low: 0, port: 0)))
    var expires: UInt64 = 0
    var next: UnsafeMutablePointer<Visitor>?
}

/// A client's proposal and the companion it came on.
struct Arrival {
    let message: Message
    let companion: san_socket
    let provider: ProviderRef
}

typealias VisitorRef = UnsafeMutablePointer<Visitor>

/// Matches the clients' proposals with the claims of the processes that accepted their connections. Lives in the process that
/// listens; its thread sleeps unless somebody knocks.
enum Broker {
    /// Guards everything below, and the listeners. Taken before `guardian`, never the other way round.
    static let lock = ProcessLock()

    nonisolated(unsafe) static var visitors: VisitorRef?
    /// Visitors; read without the lock by calls that only want to know whether there are any.
    private static let waiting = Atomic<Int>(0)
    /// In-process claims.
    nonisolated(unsafe) private static var claims: SessionRef?
    nonisolated(unsafe) static var set: CInt = -1
    /// An eventfd that wakes the thread; edge-triggered, so nobody needs to read it.
    nonisolated(unsafe) static var bell: CInt = -1
    static let bellData: UInt64 = 2
    nonisolated(unsafe) static var isRunning = false
    /// The thread is asked to close the set and end.
    nonisolated(unsafe) static var isLeaving = false
    /// Times that the thread has come back from its set.
    static let rounds = Atomic<UInt32>(0)
    /// A visitor could not be let in for want of descriptors.
    nonisolated(unsafe) private static var isOutOfNumbers = false
    /// Tags in an event's data beside the bell's value.
    static let listenerTag: UInt64 = 1
    static let sessionTag: UInt64 = 3

    // MARK: Listening

    /// Opens the rendezvous of each provider beside a TCP listener. Another process may already serve the address: then that is
    /// its broker.
    static func serve(_ listener: ListenerRef) {
        guard startThread() else { return }
        var provider = Providers.listening(after: nil, at: listener.pointee.address)
        while let candidate = provider {
            if listener.pointee.rendezvous[candidate.pointee.index].companion == 0 { serve(listener, candidate) }
            provider = Providers.listening(after: candidate, at: listener.pointee.address)
        }
    }

    private static func serve(_ listener: ListenerRef, _ provider: ProviderRef) {
        let rendezvous = listener.pointee.rendezvous + provider.pointee.index
        var companion: san_socket = 0
        guard provider.socket(&companion) == 0 else { return }
        guard provider.bind(companion, listener.pointee.address) == 0,
            listener.replayOptions(on: companion, of: provider) == 0,
            provider.listen(companion) == 0,
            watch(companion, provider, UInt64(UInt(bitPattern: rendezvous)) | listenerTag)
        else {
            log("rendezvous failed, port", -1, UInt64(listener.pointee.address.port), UInt64(provider.pointee.index))
            return provider.close(companion)
        }
        rendezvous.pointee.provider = provider
        rendezvous.pointee.companion = companion
        log("rendezvous open, port", -1, UInt64(listener.pointee.address.port), UInt64(provider.pointee.index))
    }

    /// A provider has come: every listener of this process gets its rendezvous (wildcard listeners serve all of its NICs).
    static func extend() {
        lock.lock()
        defer { lock.unlock() }
        var listener = Listeners.first
        while let candidate = listener {
            if candidate.isInUse { serve(candidate) }
            listener = candidate.pointee.next
        }
    }

    /// A provider is registered no longer: nobody finds it any more. What it carries goes on.
    static func withdraw(_ provider: ProviderRef) {
        lock.lock()
        defer { lock.unlock() }
        var listener = Listeners.first
        while let candidate = listener {
            let rendezvous = candidate.pointee.rendezvous + provider.pointee.index
            if rendezvous.pointee.companion != 0 { stop(rendezvous) }
            listener = candidate.pointee.next
        }
    }

    private static func stop(_ rendezvous: RendezvousRef) {
        guard let provider = rendezvous.pointee.provider else { return }
        unwatch(rendezvous.pointee.companion, provider)
        provider.close(rendezvous.pointee.companion)
        rendezvous.pointee.companion = 0
    }

    static func stop(_ listener: ListenerRef) {
        listener.forEachRendezvous { stop($0) }
    }

    static func watch(_ companion: san_socket, _ provider: ProviderRef, _ data: UInt64) -> Bool {
        var event = libc_epoll_event(UInt32(EPOLLIN.rawValue), data)
        return sys_epoll_ctl(set, EPOLL_CTL_ADD, provider.eventDescriptor(companion), &event) == 0
    }

    static func unwatch(_ companion: san_socket, _ provider: ProviderRef) {
        _ = sys_epoll_ctl(set, EPOLL_CTL_DEL, provider.eventDescriptor(companion), nil)
    }

    private static func startThread() -> Bool {
        if isRunning { return !isLeaving }
        let fd = sys_epoll_create1(CInt(EPOLL_CLOEXEC))
        guard fd >= 0 else { return false }
        set = HiddenDescriptors.place(CInt(fd))
        if set < 0 { _ = sys_close(CInt(fd)) }
        let event = sys_eventfd()
        bell = event < 0 ? -1 : HiddenDescriptors.place(CInt(event))
        if bell < 0, event >= 0 { _ = sys_close(CInt(event)) }
        guard set >= 0, bell >= 0, watchBell(), libc_start_thread({ _ in Broker.run() }, nil) == 0 else {
            closeSet()
            return false
        }
        isRunning = true
        return true
    }

    static func watchBell() -> Bool {
        var interest = libc_epoll_event(UInt32(EPOLLIN.rawValue) | Readiness.edge, bellData)
        return sys_epoll_ctl(set, EPOLL_CTL_ADD, bell, &interest) == 0
    }

    private static func closeSet() {
        HiddenDescriptors.close(set)
        HiddenDescriptors.close(bell)
        set = -1
        bell = -1
    }

    static func ring() {
        var one: UInt64 = 1
        _ = sys_write(bell, &one, 8)
    }

    // MARK: The switch thread

    private static func run() -> UnsafeMutableRawPointer? {
        withUnsafeTemporaryAllocation(of: epoll_event.self, capacity: 64) { events in
            while true {
                let limit = Reclaim.timeout(waiting.load(ordering: .relaxed) > 0 ? 1000 : -1)
                let count = sys_epoll_wait(set, events.baseAddress, 64, Resending.timeout(limit))
                rounds.wrappingAdd(1, ordering: .sequentiallyConsistent)
                lock.lock()
                if isLeaving {
                    closeSet()
                    isLeaving = false
                    isRunning = false
                    lock.unlock()
                    return nil
                }
                isOutOfNumbers = false
                for i in 0..<max(0, count) { handle(libc_epoll_data(events.baseAddress! + i)) }
                if waiting.load(ordering: .relaxed) > 0 { expire() }
                let mustPause = isOutOfNumbers
                lock.unlock()
                // Sessions have locks that come before this one.
                for i in 0..<max(0, count) { followSession(libc_epoll_data(events.baseAddress! + i)) }
                Resending.look()
                Reclaim.look()
                // The visitor stays at the door, and the set ready.
                if mustPause { HiddenDescriptors.pause(milliseconds: 50) }
            }
        }
    }

    /// Makes the switch thread look at its time limit again; starts it if there is none.
    static func rouse() {
        lock.lock()
        defer { lock.unlock() }
        if startThread() { ring() }
    }

    private static func handle(_ data: UInt64) {
        if data == bellData || data & 3 == sessionTag { return }
        if data & 1 == 1 {
            guard let rendezvous = RendezvousRef(bitPattern: UInt(data & ~1)), rendezvous.pointee.companion != 0,
                let provider = rendezvous.pointee.provider
            else { return }
            var companion: san_socket = 0
            var result = provider.accept(rendezvous.pointee.companion, &companion)
            while result == 0 {
                greet(companion, provider)
                result = provider.accept(rendezvous.pointee.companion, &companion)
            }
            if result == -EMFILE || result == -ENFILE {
                isOutOfNumbers = true
            } else if result != -EAGAIN, result != -EINTR, result != -ECONNABORTED {
                // One that cannot accept would be readable for ever. The next claim that finds nobody listening opens it again.
                stop(rendezvous)
            }
        } else if let visitor = VisitorRef(bitPattern: UInt(data)) {
            visitor.pointee.kind == .greeting ? hear(visitor) : dismissIfGone(visitor)
        }
    }

    // MARK: Companions of sessions

    /// Watches for the end of a session's companion: a peer that calls exec says so by it, and must be answered even if every thread of this
    /// process is busy elsewhere. Doorbells are no such event, and cost nothing here.
    static func follow(_ session: SessionRef) {
        lock.lock()
        defer { lock.unlock() }
        guard startThread() else { return }
        var event = libc_epoll_event(
            Readiness.readHangup | Readiness.edge, UInt64(UInt(bitPattern: session)) | sessionTag)
        _ = sys_epoll_ctl(set, EPOLL_CTL_ADD, session.pointee.doorbell, &event)
    }

    /// The doorbell has another number.
    static func follow(_ session: SessionRef, _ number: CInt, as new: CInt) {
        lock.lock()
        defer { lock.unlock() }
        guard isRunning, sys_epoll_ctl(set, EPOLL_CTL_DEL, number, nil) == 0, new >= 0 else { return }
        var event = libc_epoll_event(
            Readiness.readHangup | Readiness.edge, UInt64(UInt(bitPattern: session)) | sessionTag)
        _ = sys_epoll_ctl(set, EPOLL_CTL_ADD, new, &event)
    }

    static func unfollow(_ session: SessionRef) {
        if isRunning, session.pointee.doorbell >= 0 {
            _ = sys_epoll_ctl(set, EPOLL_CTL_DEL, session.pointee.doorbell, nil)
        }
    }

    private static func followSession(_ data: UInt64) {
        guard data & 3 == sessionTag, let session = SessionRef(bitPattern: UInt(data & ~3)) else { return }
        // Pooled, never unmapped: an event that comes late finds another session, which has nothing to follow.
        session.pointee.holds.wrappingAdd(1, ordering: .acquiringAndReleasing)
        defer { session.drop() }
        guard session.descriptor >= 0, session.stage == Session.Stage.attached else { return }
        session.lookForCompanionsEnd()
        session.sending.lock()
        session.followPeer()
        _ = session.hasSentAgain()
        session.sending.unlock()
    }

    private static func greet(_ companion: san_socket, _ provider: ProviderRef) {
        guard waiting.load(ordering: .relaxed) < Limits.waitingAtBroker else {
            return provider.close(companion)
        }
        var visitor = visitors
        while let candidate = visitor, candidate.pointee.kind != .free { visitor = candidate.pointee.next }
        if visitor == nil {
            let fresh = VisitorRef.allocate(capacity: 1)
            fresh.initialize(to: Visitor(provider: provider, next: visitors))
            visitors = fresh
            visitor = fresh
        }
        guard let visitor else { return }
        visitor.pointee.kind = .greeting
        visitor.pointee.companion = companion
        visitor.pointee.provider = provider
        visitor.pointee.expires = libc_nanoseconds() &+ Limits.waitingNanoseconds
        waiting.wrappingAdd(1, ordering: .relaxed)
        if watch(companion, provider, UInt64(UInt(bitPattern: visitor))) { hear(visitor) } else { dismiss(visitor) }
    }

    /// Ends a visit, and the companion with it.
    static func dismiss(_ visitor: VisitorRef) {
        guard visitor.pointee.kind != .free else { return }
        unwatch(visitor.pointee.companion, visitor.pointee.provider)
        visitor.pointee.provider.close(visitor.pointee.companion)
        forget(visitor)
    }

    private static func forget(_ visitor: VisitorRef) {
        visitor.pointee.kind = .free
        visitor.pointee.companion = 0
        waiting.wrappingSubtract(1, ordering: .relaxed)
    }

    /// A waiting visitor has nothing more to say: readable means gone.
    private static func dismissIfGone(_ visitor: VisitorRef) {
        guard visitor.pointee.kind != .free else { return }
        var byte:
            (
                UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64,
                UInt64, UInt64, UInt64, UInt64, UInt64
            ) =
                (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        let count = withUnsafeMutableBytes(of: &byte) {
            visitor.pointee.provider.receive(visitor.pointee.companion, $0)
        }
        if count != -Int(EAGAIN) { dismiss(visitor) }
    }

    private static func expire() {
        let now = libc_nanoseconds()
        var visitor = visitors
        while let candidate = visitor {
            if candidate.pointee.kind != .free, candidate.pointee.expires < now { dismiss(candidate) }
            visitor = candidate.pointee.next
        }
    }

    /// Reads a visitor's message and looks for its counterpart.
    private static func hear(_ visitor: VisitorRef) {
        let (companion, provider) = (visitor.pointee.companion, visitor.pointee.provider)
        let message: Message? = withUnsafeTemporaryAllocation(byteCount: Message.size, alignment: 8) { bytes in
            let count = provider.receive(companion, bytes)
            if count == -Int(EAGAIN) { return Message?.none }
            guard count == Message.size, let message = Message(UnsafeRawBufferPointer(bytes)),
                message.kind == .proposal || message.kind == .claim
            else {
                dismiss(visitor)
                return nil
            }
            return message
        }
        guard let message else { return }
        guard PeerCheck.mayActFor(message.tuple, companion: companion, of: provider) else { return dismiss(visitor) }
        visitor.pointee.message = message
        visitor.pointee.kind = message.kind == .proposal ? .proposal : .claim
        if message.kind == .proposal {
            if let session = claimed(message.tuple.reversed) {
                // The session's next call takes it (arrival).
                session.pointee.nextLook.store(0, ordering: .relaxed)
            } else if let claim = find(.claim, message.tuple.reversed, of: provider) {
                grant(visitor, to: claim)
            }
        } else if let proposal = find(.proposal, message.tuple.reversed, of: provider) {
            grant(proposal, to: visitor)
        }
    }

    /// The visitor with this `tuple`. Only a channel of the same provider can take a companion along.
    private static func find(_ kind: Visitor.Kind, _ tuple: ConnectionTuple, of provider: ProviderRef? = nil)
        -> VisitorRef?
    {
        var visitor = visitors
        while let candidate = visitor {
            if candidate.pointee.kind == kind, candidate.pointee.message.tuple == tuple,
                provider == nil || candidate.pointee.provider == provider
            {
                return candidate
            }
            visitor = candidate.pointee.next
        }
        return nil
    }

    private static func claimed(_ tuple: ConnectionTuple) -> SessionRef? {
        var session = claims
        while let candidate = session {
            if candidate.pointee.tuple == tuple { return candidate }
            session = candidate.pointee.nextClaim
        }
        return nil
    }

    /// Hands the client's companion to the process that accepted the connection.
    private static func grant(_ proposal: VisitorRef, to claim: VisitorRef) {
        var message = proposal.pointee.message
        message.kind = .grant
        withUnsafeTemporaryAllocation(byteCount: Message.size, alignment: 8) { bytes in
            message.encode(into: bytes)
            _ = proposal.pointee.provider.duplicate(
                proposal.pointee.companion, to: claim.pointee.companion, UnsafeRawBufferPointer(bytes))
        }
        dismiss(proposal)
        dismiss(claim)
    }

    // MARK: Sessions of this process

    /// Claims the companion of an accepted connection, here or at the broker of its address. Nil: claimed; else why not.
    static func claim(_ session: SessionRef) -> Reason? {
        guard let listener = session.pointee.listener else { return .peerUnaware }
        lock.lock()
        if listener.isServed {
            if !session.pointee.isClaimed {
                session.pointee.isClaimed = true
                session.pointee.nextClaim = claims
                session.pointee.previousClaim = nil
                claims?.pointee.previousClaim = session
                claims = session
            }
            lock.unlock()
            return nil
        }
        lock.unlock()
        return claimElsewhere(session, listener)
    }

    private static func claimElsewhere(_ session: SessionRef, _ listener: ListenerRef) -> Reason? {
        let tuple = session.pointee.tuple
        var provider = Providers.suitable(after: nil, tuple.local, tuple.peer)
        while let candidate = provider {
            let reason = claimElsewhere(session, listener, candidate)
            if reason != .peerUnaware { return reason }
            provider = Providers.suitable(after: candidate, tuple.local, tuple.peer)
        }
        // The broker is gone (a daemon's parent): this process, which accepts, takes its place.
        lock.lock()
        if !listener.isServed { serve(listener) }
        let isMine = listener.isServed
        lock.unlock()
        return isMine ? claim(session) : .peerUnaware
    }

    private static func claimElsewhere(_ session: SessionRef, _ listener: ListenerRef, _ provider: ProviderRef)
        -> Reason?
    {
        var channel: san_socket = 0
        guard provider.socket(&channel) == 0 else { return .descriptorsExhausted }
        session.pointee.provider = provider
        session.pointee.companion = channel
        guard provider.connect(channel, listener.pointee.address) == 0 else {
            session.releaseCompanion()
            return .peerUnaware
        }
        guard PeerCheck.mayActFor(session.pointee.tuple, companion: channel, of: provider),
            session.transmit(Message(kind: .claim, tuple: session.pointee.tuple))
        else {
            session.releaseCompanion()
            return .peerNotOwner
        }
        return nil
    }

    /// The client's proposal for a claimed session, once it is there.
    static func arrival(_ session: SessionRef) -> Arrival? {
        // Most calls find nothing and must cost nothing: the broker thread leaves word in `waiting`.
        guard waiting.load(ordering: .relaxed) > 0 else { return nil }
        lock.lock()
        defer { lock.unlock() }
        guard let proposal = find(.proposal, session.pointee.tuple.reversed) else { return nil }
        let result = Arrival(
            message: proposal.pointee.message, companion: proposal.pointee.companion,
            provider: proposal.pointee.provider)
        unwatch(proposal.pointee.companion, proposal.pointee.provider)
        forget(proposal)
        remove(session)
        return result
    }

    /// The session ends or needs its claim no more.
    static func withdraw(_ session: SessionRef) {
        guard session.pointee.isClaimed else { return }
        lock.lock()
        remove(session)
        lock.unlock()
    }

    private static func remove(_ session: SessionRef) {
        guard session.pointee.isClaimed else { return }
        session.pointee.isClaimed = false
        session.pointee.nextClaim?.pointee.previousClaim = session.pointee.previousClaim
        if let previous = session.pointee.previousClaim {
            previous.pointee.nextClaim = session.pointee.nextClaim
        } else {
            claims = session.pointee.nextClaim
        }
    }

    // MARK: fork

    /// The child has no thread and is nobody's broker: what it inherited is closed here, and only here.
    static func forgetInChild() {
        var listener = Listeners.first
        while let candidate = listener {
            candidate.forEachRendezvous { rendezvous in
                rendezvous.pointee.provider?.close(rendezvous.pointee.companion)
                rendezvous.pointee.companion = 0
            }
            listener = candidate.pointee.next
        }
        var visitor = visitors
        while let candidate = visitor {
            if candidate.pointee.kind != .free {
                candidate.pointee.provider.close(candidate.pointee.companion)
                forget(candidate)
            }
            visitor = candidate.pointee.next
        }
        var session = claims
        while let candidate = session {
            candidate.pointee.isClaimed = false
            // A pending claim of the parent's: the child may claim by itself.
            candidate.pointee.stage.store(Session.Stage.fresh, ordering: .relaxed)
            session = candidate.pointee.nextClaim
        }
        claims = nil
        closeSet()
        Reclaim.forgetInChild()
        Resending.forgetInChild()
        isRunning = false
        isLeaving = false
    }
}
