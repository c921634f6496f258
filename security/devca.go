package security

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// The files of a DevCA in its directory.
const (
	caCertFile = "ca.pem"
	caKeyFile  = "ca.key"
)

// How long certificates are valid. Their beginning lies back as far as clocks of
// nodes may be apart at the worst.
const (
	devCALifetime   = 10 * 365 * 24 * time.Hour
	devNodeLifetime = 365 * 24 * time.Hour
	devBackdate     = time.Hour
)

// maxHosts is how many hosts a certificate may name: all the names and
// addresses of one host, and a few to spare.
const maxHosts = 64

// maxHostBytes is the longest DNS name.
const maxHostBytes = 253

// DevCA is a certificate authority for development and tests: its key lies in a
// file beside the certificates that it issues.
type DevCA struct {
	// Lifetime is how long issued certificates are valid from now on; 0 is a
	// year. Below 0 they have expired already.
	Lifetime time.Duration

	dir, cluster string
	cert         *x509.Certificate
	key          crypto.Signer
}

// CertFiles are the paths of what a node needs.
type CertFiles struct {
	CertFile, KeyFile, CAFile string
}

// NewDevCA creates a CA for the nodes of a cluster in a directory, which is
// created if it is missing and must have no CA yet.
func NewDevCA(dir, cluster string) (*DevCA, error) {
	if err := checkName("cluster", cluster); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, invalid(dir, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, caKeyFile)); err == nil {
		return nil, invalid(dir, errors.New("it has a CA already; open that one or take another directory"))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{cluster}, CommonName: "development CA of " + cluster},
		NotBefore:             now.Add(-devBackdate),
		NotAfter:              now.Add(devCALifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	ca := &DevCA{dir: dir, cluster: cluster, key: key}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return ca, ca.write(key, der, caKeyFile, caCertFile)
}

// OpenDevCA opens the CA that NewDevCA created in a directory.
func OpenDevCA(dir string) (*DevCA, error) {
	certs, certErr := readCertificates(filepath.Join(dir, caCertFile), "CA")
	key, keyErr := readKey(filepath.Join(dir, caKeyFile))
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, err
	}
	if len(certs[0].Subject.Organization) != 1 || !certs[0].IsCA || !fits(certs[0], key) {
		return nil, invalid(dir, errors.New("it has no development CA; create one in another directory"))
	}
	return &DevCA{dir: dir, cluster: certs[0].Subject.Organization[0], cert: certs[0], key: key}, nil
}

// Issue makes a certificate for a node that others dial at any of the hosts, IP
// addresses or DNS names, and writes it and its key into the directory of the
// CA, in the place of what an earlier call for the node wrote.
func (ca *DevCA) Issue(node string, hosts ...string) (CertFiles, error) {
	if err := checkName("node", node); err != nil {
		return CertFiles{}, err
	}
	files := CertFiles{
		CertFile: filepath.Join(ca.dir, node+".pem"),
		KeyFile:  filepath.Join(ca.dir, node+".key"),
		CAFile:   filepath.Join(ca.dir, caCertFile),
	}
	if files.CertFile == files.CAFile {
		return CertFiles{}, fmt.Errorf("%w: the files of node %q would be those of the CA; give it another name", base.ErrInvalid, node)
	}
	template, err := ca.template(node, hosts)
	if err != nil {
		return CertFiles{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return CertFiles{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return CertFiles{}, err
	}
	return files, ca.write(key, der, filepath.Base(files.KeyFile), filepath.Base(files.CertFile))
}

func (ca *DevCA) template(node string, hosts []string) (*x509.Certificate, error) {
	if len(hosts) == 0 || len(hosts) > maxHosts {
		return nil, fmt.Errorf("%w: a certificate for %q needs 1 to %d hosts at which other nodes dial it", base.ErrInvalid, node, maxHosts)
	}
	lifetime := ca.Lifetime
	if lifetime == 0 {
		lifetime = devNodeLifetime
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{ca.cluster}, CommonName: node},
		NotBefore:             now.Add(min(0, lifetime) - devBackdate),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{NodeURI(ca.cluster, node)},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		if !isName(host, maxHostBytes) {
			return nil, fmt.Errorf("%w: %q is neither an IP address nor the name of a host; leave out port and brackets", base.ErrInvalid, host)
		}
		template.DNSNames = append(template.DNSNames, host)
	}
	return template, nil
}

// write writes a key and its certificate.
func (ca *DevCA) write(key *ecdsa.PrivateKey, cert []byte, keyFile, certFile string) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		writeFile(filepath.Join(ca.dir, keyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		writeFile(filepath.Join(ca.dir, certFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
	)
}

// writeFile replaces a file as a whole, so that nobody reads half of it. The
// mode is 0600, that of os.CreateTemp, whatever the file had before.
func writeFile(file string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error counts
	}
	return err
}

// Dir returns the directory of the CA.
func (ca *DevCA) Dir() string { return ca.dir }

// Certificate returns the certificate of the CA, which must not be changed.
func (ca *DevCA) Certificate() *x509.Certificate { return ca.cert }
