{{- /* Each takes a dict of root, the context of the chart, and role, mef or maf. */ -}}

{{- define "muster.name" -}}
{{ printf "%s-%s" .root.Release.Name .role }}
{{- end }}

{{- define "muster.selector" -}}
app.kubernetes.io/name: muster
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "muster.labels" -}}
{{ include "muster.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "muster.config" -}}
{{- $function := index .root.Values .role -}}
{{- $store := dict "root_key" "credential:root-key" "path" (printf "/var/lib/muster/%s.db" .role) -}}
{{- if $function.store.postgres -}}
{{- $store = dict "root_key" "credential:root-key" "postgres" $function.store.postgres -}}
{{- end -}}
{{- $address := printf "0.0.0.0:%d" (int $function.port) -}}
{{- $ours := dict
	"identity" (dict "certificate" "credential:identity" "key" "credential:identity-key")
	"listen" (dict "tls" $address "dtls" $address)
	"metrics" (dict "listen" "0.0.0.0:9464")
	"store" $store -}}
{{ toYaml (merge $ours $function.config) }}
{{- end }}

{{- /* The pod, for the function itself or, with arguments, for a job. */ -}}
{{- define "muster.pod" -}}
{{- $function := index .root.Values .role -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 45
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
containers:
  - name: muster
    image: {{ printf "%s:%s" .root.Values.image.repository (default .root.Chart.AppVersion .root.Values.image.tag) | quote }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args:
      {{- toYaml .args | nindent 6 }}
    env:
      # As under systemd: only a file in this folder may be readable by its group.
      - name: CREDENTIALS_DIRECTORY
        value: /run/credentials/muster
      {{- if $function.store.passwordSecret }}
      - name: PGPASSWORD
        valueFrom:
          secretKeyRef:
            name: {{ $function.store.passwordSecret }}
            key: password
      {{- end }}
    {{- if .serves }}
    ports:
      - name: tls
        containerPort: {{ $function.port }}
        protocol: TCP
      - name: dtls
        containerPort: {{ $function.port }}
        protocol: UDP
      - name: metrics
        containerPort: 9464
        protocol: TCP
    livenessProbe:
      httpGet:
        path: /livez
        port: metrics
      periodSeconds: 10
      failureThreshold: 6
    readinessProbe:
      httpGet:
        path: /readyz
        port: metrics
      periodSeconds: 5
    {{- end }}
    resources:
      {{- toYaml $function.resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
    volumeMounts:
      - name: config
        mountPath: /etc/muster
        readOnly: true
      - name: credentials
        mountPath: /run/credentials/muster
        readOnly: true
      - name: data
        mountPath: /var/lib/muster
volumes:
  - name: config
    projected:
      sources:
        - configMap:
            name: {{ include "muster.name" . }}
        - configMap:
            name: {{ $function.files }}
  - name: credentials
    projected:
      defaultMode: 0440
      sources:
        - secret:
            name: {{ $function.identity }}
            items:
              - key: tls.crt
                path: identity
              - key: tls.key
                path: identity-key
        - secret:
            name: {{ $function.rootKey }}
            items:
              - key: root-key
                path: root-key
  {{- if $function.store.postgres }}
  - name: data
    emptyDir: {}
  {{- else if not .serves }}
  - name: data
    persistentVolumeClaim:
      claimName: {{ printf "data-%s-0" (include "muster.name" .) }}
  {{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
