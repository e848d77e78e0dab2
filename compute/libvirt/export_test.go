package libvirt

import "github.com/dewpoint-cloud/dewpoint/compute"

// DomainXML is what Create hands to libvirt, for comparison with others who hand it the same.
func (h *Hypervisor) DomainXML(m compute.Machine) (string, error) { return h.domainXML(m) }
