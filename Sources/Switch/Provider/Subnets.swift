import CLibc
import CProvider
import Libc
import Registry

/// Where a provider can carry connections: within this host, or to what is on-link from the addresses of its NICs.
struct Subnets {
    private static let capacity = 64

    /// Addresses of the NICs under the provider's control; nil for one that joins the processes of one host.
    private var addresses: UnsafeMutablePointer<san_address>?
    private var count = 0

    /// Asks the provider for its list, through a socket of its own as the switch does (seed 0, step 3).
    mutating func read(_ functions: san_functions) {
        var tcp = ProviderTables.tcp
        var socket: san_socket = 0
        guard functions.socket(&tcp, &socket) == 0, socket != 0 else { return }
        defer { _ = functions.close(socket) }
        let code = UInt32(SAN_IOCTL_ADDRESS_LIST)
        let needed = functions.ioctl(socket, code, nil, 0, nil, 0)
        guard needed >= 0 else { return }
        let list = addresses ?? UnsafeMutablePointer<san_address>.allocate(capacity: Self.capacity)
        addresses = list
        let stride = MemoryLayout<san_address>.stride
        let length = min(Int(needed), Self.capacity * stride)
        let filled = length == 0 ? 0 : functions.ioctl(socket, code, nil, 0, list, length)
        count = max(0, min(Int(filled), length)) / stride
    }

    /// Whether a connection between these two can travel with the provider. Routed traffic never does.
    func reach(_ local: SocketAddress, _ peer: SocketAddress) -> Bool {
        guard addresses != nil else { return Eligibility.isOnThisHost(local: local, peer: peer) }
        return mayBind(local) && Eligibility.isOnLink(local: local, peer: peer)
    }

    func mayBind(_ address: SocketAddress) -> Bool {
        guard let addresses else { return true }
        for i in 0..<count where SocketAddress(addresses[i]).sameHost(as: address) { return true }
        return false
    }
}

extension SocketAddress {
    fileprivate init(_ address: san_address) {
        var address = address
        self = withUnsafeBytes(of: &address) {
            SocketAddress(
                high: $0.loadUnaligned(as: UInt64.self), low: $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self),
                port: 0)
        }
    }
}
