import CLibc
import Libc

/// Tags in an event's data: what one of our kernel entries is about.
enum EventTag {
    static let mask: UInt64 = 7
    static let socket: UInt64 = 1
    static let doorbell: UInt64 = 2
    static let kick: UInt64 = 3
    /// An inner set, as the program put it into an outer one.
    static let nest: UInt64 = 4
    /// The annex of an inner set, or the nudge of our own: something below may have changed.
    static let annex: UInt64 = 5
}

/// Entries live in one range of addresses, so that a pointer stored as an event's data is recognised: interests first, then
/// nests. Memory is reused for its own kind only: a stale tag finds an entry, if perhaps not the one it meant.
enum EntryPool {
    private static let stride = 256
    private static let interests = 1 << 18
    private static let nests = 1 << 14
    nonisolated(unsafe) private static var base: UnsafeMutableRawPointer?
    nonisolated(unsafe) private static var usedInterests = 0
    nonisolated(unsafe) private static var usedNests = 0
    nonisolated(unsafe) private static var freeInterest: InterestRef?
    nonisolated(unsafe) private static var freeNest: NestRef?

    // With `Readiness.lock` held.

    static func take(_ interest: Interest) -> InterestRef? {
        if let reused = freeInterest {
            freeInterest = reused.pointee.nextOfSet
            reused.initialize(to: interest)
            return reused
        }
        guard prepare(), usedInterests < interests, let base else { return nil }
        let fresh = (base + usedInterests * stride).assumingMemoryBound(to: Interest.self)
        usedInterests &+= 1
        fresh.initialize(to: interest)
        return fresh
    }

    static func take(_ nest: Nest) -> NestRef? {
        if let reused = freeNest {
            freeNest = reused.pointee.nextOfOuter
            reused.initialize(to: nest)
            return reused
        }
        guard prepare(), usedNests < nests, let base else { return nil }
        let fresh = (base + (interests + usedNests) * stride).assumingMemoryBound(to: Nest.self)
        usedNests &+= 1
        fresh.initialize(to: nest)
        return fresh
    }

    static func give(_ interest: InterestRef) {
        interest.pointee.isFollowed = false
        interest.pointee.nextOfSet = freeInterest
        freeInterest = interest
    }

    static func give(_ nest: NestRef) {
        nest.pointee.isIn = false
        nest.pointee.nextOfOuter = freeNest
        freeNest = nest
    }

    private static func prepare() -> Bool {
        if base == nil { base = map() }
        return base != nil
    }

    /// Programs that store a descriptor in an event's data (CPython does) leave stray bits above it, often the upper half of some pointer. So
    /// the lower half of our addresses must not look like a descriptor: a quarter of the way into four gigabytes that nothing else is near.
    private static func map() -> UnsafeMutableRawPointer? {
        let length = (interests + nests) * stride
        let (quarter, whole) = (1 << 28, 1 << 32)
        // The wish is not always granted (sanitizers keep such places for themselves): room to choose, and the rest goes back.
        let room = length + 2 * quarter
        guard
            let start = sys_map_near(
                UnsafeMutableRawPointer(bitPattern: 0x1a53 << 32 | 1 << 30), room, -1,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
        else { return nil }
        let lower = Int(bitPattern: start) & (whole - 1)
        let skip = lower < quarter ? quarter - lower : lower + length > whole ? whole - lower + quarter : 0
        if skip > 0 { sys_unmap(start, skip) }
        sys_unmap(start + skip + length, room - skip - length)
        return start + skip
    }

    /// Whether `data` is a tag of ours, in any set; never true of the program's own pointers.
    @inline(__always)
    static func owns(_ data: UInt64) -> Bool {
        guard let base else { return false }
        return data &- UInt64(UInt(bitPattern: base)) < UInt64((interests + nests) * stride)
    }

    /// The data of entries that stand for no entry of the program's; any address in the range with the tag.
    static func data(_ tag: UInt64) -> UInt64 { UInt64(UInt(bitPattern: base)) | tag }
}

extension UnsafeMutablePointer where Pointee == Interest {
    func data(_ tag: UInt64) -> UInt64 { UInt64(UInt(bitPattern: self)) | tag }
}

extension UnsafeMutablePointer where Pointee == Nest {
    var data: UInt64 { UInt64(UInt(bitPattern: self)) | EventTag.nest }
}
