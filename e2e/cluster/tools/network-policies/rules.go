package main

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// world is what the API server says, as far as policies look at it.
type world struct {
	pods       []*corev1.Pod
	namespaces map[string]labels.Set
	policies   []*networkingv1.NetworkPolicy
}

// sort puts everything in the order of names, so that the same world always has the same rules.
func (w *world) sort() {
	sort.Slice(w.pods, func(i, j int) bool { return key(w.pods[i]) < key(w.pods[j]) })
	sort.Slice(w.policies, func(i, j int) bool { return key(w.policies[i]) < key(w.policies[j]) })
}

func key(object metav1.Object) string {
	return object.GetNamespace() + "/" + object.GetName()
}

// direction is one side of a policy: who the selected pod talks with, and on whose ports.
type direction struct {
	kind networkingv1.PolicyType
	// own and peer are nftables' names of the addresses of the selected pod and of the other side.
	own, peer, chain string
}

var (
	ingress = direction{networkingv1.PolicyTypeIngress, "daddr", "saddr", "in"}
	egress  = direction{networkingv1.PolicyTypeEgress, "saddr", "daddr", "out"}
)

// rule is one entry of a policy, of either direction.
type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

const table = "inet network-policies"

// ruleset writes the whole table anew, so that nftables takes it in one step. Each isolated pod has a chain a direction that
// returns what a policy allows and drops the rest.
func ruleset(w world) (string, error) {
	var chains, jumps strings.Builder
	for _, d := range []direction{egress, ingress} {
		var verdicts []string
		for _, pod := range w.pods {
			rules, isolated, err := rulesOf(w, pod, d)
			if err != nil {
				return "", err
			}
			if !isolated {
				continue
			}
			name := d.chain + "-" + strings.ReplaceAll(pod.Status.PodIP, ".", "-")
			verdicts = append(verdicts, fmt.Sprintf("%s : jump %s", pod.Status.PodIP, name))
			fmt.Fprintf(&chains, "  chain %s {\n    ip %s %s return\n", name, d.peer, pod.Status.PodIP)
			for _, line := range rules {
				fmt.Fprintf(&chains, "    %s return\n", line)
			}
			chains.WriteString("    counter drop\n  }\n")
		}
		if len(verdicts) > 0 {
			sort.Strings(verdicts)
			fmt.Fprintf(&jumps, "    ip %s vmap { %s }\n", d.own, strings.Join(verdicts, ", "))
		}
	}
	return fmt.Sprintf("add table %[1]s\ndelete table %[1]s\ntable %[1]s {\n%[2]s"+
		"  chain forward {\n    type filter hook forward priority filter; policy accept;\n"+
		"    ct state established,related accept\n%[3]s  }\n}\n", table, chains.String(), jumps.String()), nil
}

// rulesOf is what the policies that select the pod allow, and whether any selects it at all.
func rulesOf(w world, pod *corev1.Pod, d direction) (lines []string, isolated bool, err error) {
	for _, policy := range w.policies {
		selects, err := selected(&policy.Spec.PodSelector, pod.Labels)
		if err != nil {
			return nil, false, fmt.Errorf("policy %s/%s: %w", policy.Namespace, policy.Name, err)
		}
		if policy.Namespace != pod.Namespace || !selects || !has(policy.Spec.PolicyTypes, d.kind) {
			continue
		}
		isolated = true
		for _, r := range entries(policy, d) {
			more, err := allow(w, policy.Namespace, pod, r, d)
			if err != nil {
				return nil, false, fmt.Errorf("policy %s/%s: %w", policy.Namespace, policy.Name, err)
			}
			lines = append(lines, more...)
		}
	}
	return lines, isolated, nil
}

func entries(policy *networkingv1.NetworkPolicy, d direction) (rules []rule) {
	if d.kind == networkingv1.PolicyTypeIngress {
		for _, r := range policy.Spec.Ingress {
			rules = append(rules, rule{r.From, r.Ports})
		}
		return rules
	}
	for _, r := range policy.Spec.Egress {
		rules = append(rules, rule{r.To, r.Ports})
	}
	return rules
}

// allow is one rule as match expressions: every peer with every port. No peers means everybody, no ports every port.
func allow(w world, namespace string, own *corev1.Pod, r rule, d direction) (lines []string, err error) {
	if len(r.peers) == 0 {
		return portMatches("", r.ports, own, nil, d), nil
	}
	for _, peer := range r.peers {
		if peer.IPBlock != nil {
			lines = append(lines, portMatches(blockMatch(peer.IPBlock, d), r.ports, own, nil, d)...)
			continue
		}
		for _, other := range w.pods {
			matches, err := peerSelects(w, namespace, peer, other)
			if err != nil {
				return nil, err
			}
			if matches {
				lines = append(lines, portMatches("ip "+d.peer+" "+other.Status.PodIP, r.ports, own, other, d)...)
			}
		}
	}
	return lines, nil
}

func blockMatch(block *networkingv1.IPBlock, d direction) string {
	match := "ip " + d.peer + " " + block.CIDR
	if len(block.Except) > 0 {
		match += " ip " + d.peer + " != { " + strings.Join(block.Except, ", ") + " }"
	}
	return match
}

func peerSelects(w world, namespace string, peer networkingv1.NetworkPolicyPeer, pod *corev1.Pod) (bool, error) {
	if peer.NamespaceSelector == nil && pod.Namespace != namespace {
		return false, nil
	}
	if peer.NamespaceSelector != nil {
		if matches, err := selected(peer.NamespaceSelector, w.namespaces[pod.Namespace]); err != nil || !matches {
			return false, err
		}
	}
	if peer.PodSelector == nil {
		return true, nil
	}
	return selected(peer.PodSelector, pod.Labels)
}

// portMatches adds the ports to a match on the peer. A port is always the receiver's: the selected pod's for ingress, the
// peer's for egress. A name that the receiver does not know allows nothing.
func portMatches(peer string, ports []networkingv1.NetworkPolicyPort, own, other *corev1.Pod, d direction) []string {
	if len(ports) == 0 {
		if peer == "" {
			return []string{"ip " + d.peer + " 0.0.0.0/0"}
		}
		return []string{peer}
	}
	receiver := other
	if d.kind == networkingv1.PolicyTypeIngress {
		receiver = own
	}
	var lines []string
	for _, port := range ports {
		if match, ok := portMatch(port, receiver); ok {
			lines = append(lines, strings.TrimSpace(peer+" "+match))
		}
	}
	return lines
}

func portMatch(port networkingv1.NetworkPolicyPort, receiver *corev1.Pod) (string, bool) {
	protocol := "tcp"
	if port.Protocol != nil {
		protocol = strings.ToLower(string(*port.Protocol))
	}
	if port.Port == nil {
		return "meta l4proto " + protocol, true
	}
	if port.Port.Type == intstr.String {
		number, ok := namedPort(port.Port.StrVal, protocol, receiver)
		return fmt.Sprintf("%s dport %d", protocol, number), ok
	}
	if port.EndPort != nil {
		return fmt.Sprintf("%s dport %d-%d", protocol, port.Port.IntVal, *port.EndPort), true
	}
	return fmt.Sprintf("%s dport %d", protocol, port.Port.IntVal), true
}

func namedPort(name, protocol string, pod *corev1.Pod) (int32, bool) {
	if pod == nil {
		return 0, false
	}
	containers := append(append([]corev1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...)
	for _, container := range containers {
		for _, port := range container.Ports {
			if port.Name == name && strings.EqualFold(string(port.Protocol), protocol) {
				return port.ContainerPort, true
			}
		}
	}
	return 0, false
}

// hasAddress leaves out pods without an address of their own, and those that have given it back.
func hasAddress(pod *corev1.Pod) bool {
	address, err := netip.ParseAddr(pod.Status.PodIP)
	return err == nil && address.Is4() && !pod.Spec.HostNetwork &&
		pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

func selected(selector *metav1.LabelSelector, set labels.Set) (bool, error) {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return false, err
	}
	return parsed.Matches(set), nil
}

func has(types []networkingv1.PolicyType, kind networkingv1.PolicyType) bool {
	for _, t := range types {
		if t == kind {
			return true
		}
	}
	return false
}
