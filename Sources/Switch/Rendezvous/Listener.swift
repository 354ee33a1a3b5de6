import CLibc
import CProvider
import Libc
import Synchronization

/// A listening TCP socket and, in the process that is its broker, the rendezvous companion that listens beside it. Pooled
/// memory, never unmapped.
struct Listener: ~Copyable {
    /// Descriptor numbers of this process that name it.
    let descriptors = Atomic<UInt32>(0)
    /// Sessions accepted here that still live: `nc -l` closes its listener and goes on with one connection, which may still
    /// find its companion at this rendezvous.
    let sessions = Atomic<UInt32>(0)
    nonisolated(unsafe) var address: SocketAddress
    /// 0: another process is the broker of this address, or nobody.
    nonisolated(unsafe) var companion: san_socket = 0
    nonisolated(unsafe) var next: ListenerRef?

    init(address: SocketAddress) { self.address = address }
}

typealias ListenerRef = UnsafeMutablePointer<Listener>

enum Listeners {
    /// Every listener this process has had; the closed ones have no descriptors.
    nonisolated(unsafe) static var first: ListenerRef?

    /// Records that `fd` listens, and opens the rendezvous of its address unless somebody has.
    static func opened(_ fd: CInt) {
        guard Process.prepare(), let address = SocketAddress.local(of: fd) else { return }
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
            listener.initialize(to: Listener(address: address))
            listener.pointee.next = first
            first = listener
        }
        listener.pointee.descriptors.store(1, ordering: .relaxed)
        DescriptorTable.exchange(fd, Slot(listener))
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
    var isInUse: Bool {
        pointee.descriptors.load(ordering: .relaxed) != 0 || pointee.sessions.load(ordering: .relaxed) != 0
    }
}
