import ArgumentParser
import CLibc
import Libc
import SANRdma

/// The subnet table: which destinations which built-in provider serves, as a program started now would find it.
struct Networks: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "table",
        abstract: "Show which networks connections can leave TCP for, and by which provider.",
        discussion: """
            A connection to another host can switch if it uses an address of an RDMA device and its peer needs no router: the \
            networks are those of the devices' addresses.

            EXAMPLES
              sanswitch table
            """)

    func run() throws {
        var table = Table([
            .init(title: "NETWORK"), .init(title: "PROVIDER"), .init(title: "ADDRESS"), .init(title: "INTERFACE"),
        ])
        table.add(["this host", "shm", "any", "any"])
        let addresses = Self.rdmaAddresses()
        for address in addresses {
            let place = Self.place(of: address)
            table.add([
                place.map { network(of: address, $0.prefix) } ?? "no interface has it", "rdma", address.hostText,
                place?.interface ?? "-",
            ])
        }
        for line in table.lines() { print(line) }
        let devices = Self.devices()
        if devices.isEmpty { print("No RDMA device: connections to other hosts stay on TCP.") }
        for device in devices where device.isIwarp {
            print("\(device.name) stays out: iWARP shares the ports of TCP.")
        }
        if addresses.isEmpty, devices.contains(where: { !$0.isIwarp }) {
            print("RDMA devices without an active port or an address: connections to other hosts stay on TCP.")
        }
    }

    /// The network that `address` is in, in CIDR notation.
    private func network(of address: SocketAddress, _ prefix: Int) -> String {
        func mask(_ bits: Int) -> UInt64 { bits <= 0 ? 0 : bits >= 64 ? .max : .max << UInt64(64 - bits) }
        let bits = address.isIPv4 ? prefix + 96 : prefix
        var network = address
        network.high = (UInt64(bigEndian: address.high) & mask(bits)).bigEndian
        network.low = (UInt64(bigEndian: address.low) & mask(bits - 64)).bigEndian
        return "\(network.hostText)/\(prefix)"
    }

    private static func rdmaAddresses() -> [SocketAddress] {
        var bytes = [UInt64](repeating: 0, count: 2 * 64)
        let length = bytes.withUnsafeMutableBytes { Int(RdmaIdentity.addresses($0.baseAddress, $0.count)) }
        return (0..<max(0, min(length / 16, 64))).map {
            SocketAddress(high: bytes[2 * $0], low: bytes[2 * $0 + 1], port: 0)
        }
    }

    /// The interface that has `address`, and its prefix length, by netlink (getifaddrs).
    private static func place(of address: SocketAddress) -> (interface: String, prefix: Int)? {
        var list: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&list) == 0 else { return nil }
        defer { freeifaddrs(list) }
        var next = list
        while let entry = next?.pointee {
            next = entry.ifa_next
            guard let raw = entry.ifa_addr, let mask = entry.ifa_netmask else { continue }
            let length = raw.pointee.sa_family == sa_family_t(AF_INET) ? 16 : 28
            guard SocketAddress(raw, length: length)?.sameHost(as: address) == true else { continue }
            let offset = length == 16 ? 4 : 8
            let bytes = UnsafeRawBufferPointer(start: UnsafeRawPointer(mask) + offset, count: length == 16 ? 4 : 16)
            return (String(cString: entry.ifa_name), bytes.reduce(0) { $0 + $1.nonzeroBitCount })
        }
        return nil
    }

    private static func devices() -> [(name: String, isIwarp: Bool)] {
        let root = "/sys/class/infiniband"
        guard let directory = opendir(root) else { return [] }
        defer { closedir(directory) }
        var found: [(String, Bool)] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(cString: $0.baseAddress!.assumingMemoryBound(to: CChar.self))
            }
            if name.hasPrefix(".") { continue }
            // "1: CA", "4: RNIC"
            found.append((printable(name), readFile("\(root)/\(name)/node_type")?.first == 0x34))
        }
        return found
    }
}
