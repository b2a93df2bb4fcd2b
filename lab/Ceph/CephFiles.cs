namespace Godwit.Lab.Ceph;

/// <summary>Ceph, as Debian 12 has it, unpacked beside this machine's programs: nothing is installed.</summary>
internal static class CephFiles
{
    // Its daemons and tools, the libraries they load, and the Python that its client is written in: what a machine has
    // of them besides is not relied on. Installed with all that they name the packages would take a minute more, and
    // leave services behind.
    private static readonly string[] Packages =
    [
        "ceph-mon", "ceph-osd", "ceph-mds", "ceph-fuse", "radosgw", "ceph-base", "ceph-common",
        "librados2", "librbd1", "libradosstriper1", "libcephfs2", "librgw2", "libboost-thread1.74.0",
        "libboost-context1.74.0", "libboost-filesystem1.74.0", "libboost-iostreams1.74.0", "libtcmalloc-minimal4",
        "libgoogle-perftools4", "libunwind8", "liblua5.3-0", "liboath0", "librabbitmq4", "libsnappy1v5",
        "libleveldb1d", "libfuse2", "libaio1", "libfmt9", "libibverbs1", "librdmacm1", "libnl-3-200",
        "libnl-route-3-200", "libpmem1", "libndctl6", "libdaxctl1", "libkmod2", "libcurl3-gnutls", "libldap-2.5-0",
        "librtmp1", "libssh2-1", "libpsl5", "libnghttp2-14", "libbrotli1", "libsasl2-2", "libicu72",
        "libgssapi-krb5-2", "libkrb5-3", "libk5crypto3", "libkrb5support0", "libkeyutils1", "python3.11-minimal",
        "libpython3.11-minimal", "libpython3.11-stdlib", "libexpat1", "libffi8", "libsqlite3-0", "python3-rados",
        "python3-ceph-argparse", "python3-ceph-common", "python3-prettytable", "python3-wcwidth",
    ];

    /// <summary>The folder under which its files lie as they would below <c>/</c>; fetched once.</summary>
    internal static string Obtain(Action<string> say)
    {
        string folder = Path.Combine(LabDirectory.Cache, "ceph-16.2");
        if (!Directory.Exists(folder))
        {
            say("Fetching Ceph 16.2 from Debian 12");
            // Made aside and put in place when complete: two test programs may want it at once.
            string made = $"{folder}.{Environment.ProcessId}";
            AptPackages.Unpack(made, Packages);
            try
            {
                Directory.Move(made, folder);
            }
            catch (IOException) when (Directory.Exists(folder))
            {
                Directory.Delete(made, recursive: true);
            }
        }

        return folder;
    }
}
