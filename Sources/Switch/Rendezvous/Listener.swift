import CLibc
import CProvider
import Configuration
import Libc
import Synchronization

/// The companion of one provider that listens beside a TCP listener; part of its listener, for as long.
struct Rendezvous {
    let listener: ListenerRef
    var provider: ProviderRef?
    /// 0: another process is the broker of this address, or nobody.
    var companion: san_socket = 0
}

typealias RendezvousRef = UnsafeMutablePointer<Rendezvous>

/// A listening TCP socket and, in the process that is its broker, the rendezvous companions that listen beside it. Pooled
/// memory, never unmapped.
struct Listener: ~Copyable {
    /// Descriptor numbers of this process that name it.
    let descriptors = Atomic<UInt32>(0)
    /// Sessions accepted here that still live: `nc -l` closes its listener and goes on with one connection, which may still
    /// find its companion at this rendezvous.
    let sessions = Atomic<UInt32>(0)
    nonisolated(unsafe) var address: SocketAddress
    /// The descriptor number that listened, as long as it does, and the options set on it before.
    nonisolated(unsafe) var descriptor: CInt = -1
    nonisolated(unsafe) var options = StoredOptions()
    /// One for each provider, by its index.
    nonisolated(unsafe) let rendezvous: RendezvousRef
    nonisolated(unsafe) var next: ListenerRef?

    init(address: SocketAddress, rendezvous: RendezvousRef) {
        self.address = address
        self.rendezvous = rendezvous
    }
}

typealias ListenerRef = UnsafeMutablePointer<Listener>

enum Listeners {
    /// Every listener this process has had; the closed ones have no descriptors.
    nonisolated(unsafe) static var first: ListenerRef?

    /// Records that `fd` listens, and opens the rendezvous of its address unless somebody has.
    static func opened(_ fd: CInt) {
        // A listener that is ruled out is nobody's: what it accepts are the kernel's connections.
        guard Process.prepare(), let address = SocketAddress.local(of: fd), Rules.allow(.listen, address) else {
            return
        }
        Providers.refresh()
        Broker.lock.lock()
        defer { Broker.lock.unlock() }
        var found = first
        while let listener = found, listener.isInUse { found = listener.pointee.next }
        let listener: ListenerRef
        if let found {
            listener = found
            listener.pointee.address = address
        } else {
            listener = ListenerRef.allocate(capacity: 1)
            let rendezvous = RendezvousRef.allocate(capacity: Providers.capacity)
            rendezvous.initialize(repeating: Rendezvous(listener: listener), count: Providers.capacity)
            listener.initialize(to: Listener(address: address, rendezvous: rendezvous))
            listener.pointee.next = first
            first = listener
        }
        listener.pointee.descriptors.store(1, ordering: .relaxed)
        listener.pointee.descriptor = fd
        listener.pointee.options = DescriptorTable.exchange(fd, Slot(listener)).options
        Broker.serve(listener)
    }

    /// One descriptor fewer names `listener`; the last one closes the rendezvous.
    static func closed(_ listener: ListenerRef) {
        Broker.lock.lock()
        defer { Broker.lock.unlock() }
        listener.pointee.descriptors.wrappingSubtract(1, ordering: .relaxed)
        if !listener.isInUse { Broker.stop(listener) }
    }

    /// A session accepted at `listener` has ended.
    static func left(_ listener: ListenerRef) {
        guard listener.pointee.sessions.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue == 0,
            listener.pointee.descriptors.load(ordering: .acquiring) == 0
        else { return }
        Broker.lock.lock()
        defer { Broker.lock.unlock() }
        if !listener.isInUse { Broker.stop(listener) }
    }
}

extension UnsafeMutablePointer where Pointee == Listener {
    /// Calls `body` for each provider that listens here. With `Broker.lock`.
    func forEachRendezvous(_ body: (RendezvousRef) -> Void) {
        for i in 0..<Providers.capacity where pointee.rendezvous[i].companion != 0 { body(pointee.rendezvous + i) }
    }

    /// Replays the options on a companion that is about to listen. 0 or -errno.
    func replayOptions(on companion: san_socket, of provider: ProviderRef) -> CInt {
        guard DescriptorTable.slot(pointee.descriptor).listener == self else { return 0 }
        return pointee.options.replay(from: pointee.descriptor, on: companion, of: provider)
    }

    /// Whether this process is the broker of the address, for any provider. With `Broker.lock`.
    var isServed: Bool {
        var found = false
        forEachRendezvous { _ in found = true }
        return found
    }

    var isInUse: Bool {
        pointee.descriptors.load(ordering: .relaxed) != 0 || pointee.sessions.load(ordering: .relaxed) != 0
    }
}
