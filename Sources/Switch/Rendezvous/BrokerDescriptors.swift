import CLibc
import CProvider
import Libc
import Synchronization

// The broker's descriptors when the program needs their numbers (Table/GivingWay.swift).
extension Broker {
    /// Waits until the switch thread is not at work, which takes low numbers for moments; whether there is one.
    static func settle() -> Bool {
        lock.lock()
        defer { lock.unlock() }
        return isRunning
    }

    /// A file of the broker's is open as `new` as well, and is that from now on.
    static func renumber(_ number: CInt, _ new: CInt) -> Bool {
        lock.lock()
        guard isRunning else {
            lock.unlock()
            return false
        }
        if number == set {
            let before = rounds.load(ordering: .sequentiallyConsistent)
            set = new
            ring()
            lock.unlock()
            // The thread has come back from the old number, and reads the new one before it sleeps again.
            var waited = 0
            while rounds.load(ordering: .sequentiallyConsistent) == before, waited < 1000 {
                HiddenDescriptors.pause(milliseconds: 1)
                waited &+= 1
            }
            return true
        }
        defer { lock.unlock() }
        if number == bell {
            _ = sys_epoll_ctl(set, EPOLL_CTL_DEL, bell, nil)
            bell = new
            return watchBell()
        }
        return forEachCompanion { companion, provider, data in
            // Out of the set under the number that is going, in again under the one it has then.
            let isWatched = provider.eventDescriptor(companion) == number
            if isWatched { unwatch(companion, provider) }
            let isDone = provider.renumber(companion, number, new)
            if isWatched { _ = watch(companion, provider, data) }
            return isDone
        }
    }

    static func owns(_ number: CInt) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        return isRunning
            && (number == set || number == bell
                || forEachCompanion { companion, provider, _ in provider.eventDescriptor(companion) == number })
    }

    /// Offers each listening or waiting companion, with its data in the set, until `body` returns true; whether one did.
    private static func forEachCompanion(_ body: (san_socket, ProviderRef, UInt64) -> Bool) -> Bool {
        var listener = Listeners.first
        while let candidate = listener {
            var isDone = false
            candidate.forEachRendezvous {
                guard !isDone, $0.pointee.companion != 0, let provider = $0.pointee.provider else { return }
                isDone = body($0.pointee.companion, provider, UInt64(UInt(bitPattern: $0)) | listenerTag)
            }
            if isDone { return true }
            listener = candidate.pointee.next
        }
        var visitor = visitors
        while let candidate = visitor {
            if candidate.pointee.kind != .free,
                body(candidate.pointee.companion, candidate.pointee.provider, UInt64(UInt(bitPattern: candidate)))
            {
                return true
            }
            visitor = candidate.pointee.next
        }
        return false
    }

    /// Closes every rendezvous of this process and ends the thread: connections that come stay on TCP. True: it has ended.
    static func giveUp() -> Bool {
        lock.lock()
        if isRunning {
            var listener = Listeners.first
            while let candidate = listener {
                stop(candidate)
                listener = candidate.pointee.next
            }
            var visitor = visitors
            while let candidate = visitor {
                dismiss(candidate)
                visitor = candidate.pointee.next
            }
            isLeaving = true
            ring()
            log("rendezvous closed, no descriptor left")
        }
        lock.unlock()
        for _ in 0..<1000 {
            if !settle() { return true }
            HiddenDescriptors.pause(milliseconds: 1)
        }
        return false
    }
}
