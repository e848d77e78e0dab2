package ra

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"
	"github.com/mdlayher/ndp"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// How long guests may go by what they were told: for prefixes the defaults of RFC 4861 §6.2.1, for the rest as much as RFC 8106
// §5.1 lets it be when advertisements come every ten minutes at most.
const (
	validTime     = 30 * 24 * time.Hour
	preferredTime = 7 * 24 * time.Hour
	dnsTime       = 30 * time.Minute
	routerTime    = 3 * maxInterval // the default of the same section for the longest interval, half an hour
)

// dns6 are the DNS servers of a bridge that are reached by IPv6.
func dns6(b network.Bridge) (all []netip.Addr) {
	for _, a := range b.DNS {
		if a.Is6() && !a.Is4In6() {
			all = append(all, a)
		}
	}
	return all
}

// advertisement is what a bridge with a hardware address says, on a node that forwards IPv6 or does not.
func advertisement(b network.Bridge, mac net.HardwareAddr, forwards bool) *ndp.RouterAdvertisement {
	lifetime := time.Duration(0)
	if forwards && b.Gateway6.IsValid() {
		lifetime = routerTime
	}
	mtu := b.MTU
	if mtu == 0 {
		mtu = network.DefaultMTU
	}
	ra := &ndp.RouterAdvertisement{
		CurrentHopLimit: 64, RouterLifetime: lifetime, OtherConfiguration: true,
		Options: []ndp.Option{
			&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac},
			&ndp.PrefixInformation{PrefixLength: 64, OnLink: true, AutonomousAddressConfiguration: true, ValidLifetime: validTime,
				PreferredLifetime: preferredTime, Prefix: b.Prefix6.Masked().Addr()},
		},
	}
	if mtu >= 1280 { // less is not possible with IPv6 (RFC 8200 §5)
		ra.Options = append(ra.Options, ndp.NewMTU(uint32(mtu)))
	}
	if servers := dns6(b); len(servers) > 0 {
		ra.Options = append(ra.Options, &ndp.RecursiveDNSServer{Lifetime: dnsTime, Servers: servers})
	}
	if b.Domain != "" {
		ra.Options = append(ra.Options, &ndp.DNSSearchList{Lifetime: dnsTime, DomainNames: []string{b.Domain}})
	}
	return ra
}

// maxRequest bounds what a client says: it has no reason to say more.
const maxRequest = 1500

// reply answers an Information-request (RFC 8415 §18.3.6), or is nil for all that gets no answer: it never panics, whatever the client
// sent.
func reply(b network.Bridge, mac net.HardwareAddr, packet []byte) (answer []byte) {
	defer func() {
		if recover() != nil { // a mistake in the library must not end the node's
			answer = nil
		}
	}()
	if len(packet) < 4 || len(packet) > maxRequest || dhcpv6.MessageType(packet[0]) != dhcpv6.MessageTypeInformationRequest {
		return nil
	}
	m, err := dhcpv6.MessageFromBytes(packet)
	if err != nil {
		return nil
	}
	own := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}
	// §16.12: one for another server, or that wants an address.
	if id := m.Options.ServerID(); id != nil && !id.Equal(own) {
		return nil
	}
	for _, code := range []dhcpv6.OptionCode{dhcpv6.OptionIANA, dhcpv6.OptionIATA, dhcpv6.OptionIAPD} {
		if len(m.Options.Get(code)) > 0 {
			return nil
		}
	}
	r := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
	if id := m.Options.ClientID(); id != nil {
		r.AddOption(dhcpv6.OptClientID(id))
	}
	r.AddOption(dhcpv6.OptServerID(own))
	if servers := dns6(b); len(servers) > 0 {
		var ips []net.IP
		for _, a := range servers {
			ips = append(ips, a.AsSlice())
		}
		r.AddOption(dhcpv6.OptDNS(ips...))
	}
	if b.Domain != "" {
		r.AddOption(dhcpv6.OptDomainSearchList(&rfc1035label.Labels{Labels: []string{b.Domain}}))
	}
	return r.ToBytes()
}
