package libvirt

import (
	"encoding/xml"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
)

// namespace marks the metadata of this library's domains. It names, and need not lead anywhere.
const namespace = "https://github.com/dewpoint-cloud/dewpoint/instance/1"

// identity is what the metadata of a domain of ours says.
type identity struct {
	XMLName xml.Name `xml:"instance"`
	ID      string   `xml:"id,attr"`
	Epoch   uint64   `xml:"epoch,attr"`
}

// metadata returns what goes into a domain's <metadata>.
func metadata(id string, epoch uint64) string {
	return fmt.Sprintf(`<dewpoint:instance xmlns:dewpoint="%s" id="%s" epoch="%d"/>`, namespace, id, epoch)
}

var errForeign = errors.New("libvirt: not a domain of this library")

// parseIdentity reads the element that libvirt returns of the metadata. It is errForeign for all that this library did not
// write, as for a copy of our XML under another UUID.
func parseIdentity(text, id string) (identity, error) {
	var i identity
	if err := xml.Unmarshal([]byte(text), &i); err != nil || i.ID != id {
		return identity{}, errForeign
	}
	return i, nil
}

// identify asks whose a domain is: errForeign if it is not ours, NotFound if it is not there any more.
func identify(w wire, d golibvirt.Domain) (identity, error) {
	text, err := w.DomainGetMetadata(d, int32(golibvirt.DomainMetadataElement), golibvirt.OptString{namespace}, golibvirt.DomainAffectCurrent)
	if is(err, golibvirt.ErrNoDomainMetadata) {
		return identity{}, errForeign
	}
	if err != nil {
		return identity{}, err
	}
	return parseIdentity(text, idOf(d))
}

// find returns the domain of ours with an id; NotFound if there is none.
func find(w wire, id string) (golibvirt.Domain, error) {
	none := fmt.Errorf("libvirt: domain %s: %w", id, errdefs.ErrNotFound)
	u, err := uuid.Parse(id)
	if err != nil {
		return golibvirt.Domain{}, none
	}
	d, err := w.DomainLookupByUUID(golibvirt.UUID(u))
	if err != nil {
		if is(err, golibvirt.ErrNoDomain) {
			err = none
		}
		return d, err
	}
	if _, err := identify(w, d); err != nil {
		if errors.Is(err, errForeign) || is(err, golibvirt.ErrNoDomain) {
			err = none
		}
		return d, err
	}
	return d, nil
}

func idOf(d golibvirt.Domain) string { return uuid.UUID(d.UUID).String() }
