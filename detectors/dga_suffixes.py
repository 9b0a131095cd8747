"""Well-known domains of dynamic-DNS providers: under them anybody gets a name, so the label left of them is judged.

The list is from general knowledge and short on purpose; operators add what they meet. A domain that the public suffix
list holds as well does no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.names import Name, from_text

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROVIDERS: Final = (
    # Afraid FreeDNS
    " afraid.org allowed.org chickenkiller.com crabdance.com fairuse.org homenet.org ignorelist.com info.tm"
    " jumpingcrab.com mooo.com mine.bz minecraftnoob.com moo.com my.to privatedns.org punked.us root.sx run.place"
    " soon.it spacetechnology.net strangled.net suroot.com twilightparadox.com uk.to undo.it us.to verymad.net"
    " wikaba.com biz.tm dob.jp evils.in bad.mn ftp.sh h4ck.me leet.la pwnz.org routeme.org thehomeserver.net"
    " theworkpc.com usa.cc vpnz.org zanity.net raspberryip.com cloudns.cl bigbox.info awiki.org eu.org t28.net"
    # Dyn
    " dyndns.org dyndns.biz dyndns.info dyndns.tv dyndns.ws dyndns.dk dyndns-at-home.com dyndns-at-work.com"
    " dyndns-blog.com dyndns-free.com dyndns-home.com dyndns-ip.com dyndns-mail.com dyndns-office.com dyndns-"
    " pics.com dyndns-remote.com dyndns-server.com dyndns-web.com dyndns-wiki.com dyndns-work.com dynalias.com"
    " dynalias.net dynalias.org dynathome.net ath.cx blogdns.com blogdns.net blogdns.org doesntexist.com"
    " doesntexist.org dontexist.com dontexist.net dontexist.org dnsalias.com dnsalias.net dnsalias.org dnsdojo.com"
    " dnsdojo.net dnsdojo.org endofinternet.net endofinternet.org ftpaccess.cc game-host.org game-server.cc"
    " getmyip.com gotdns.com gotdns.org homedns.org homeftp.net homeftp.org homeip.net homelinux.com homelinux.net"
    " homelinux.org homeunix.com homeunix.net homeunix.org is-a-geek.com is-a-geek.net is-a-geek.org isa-geek.com"
    " isa-geek.net isa-geek.org kicks-ass.net kicks-ass.org mine.nu myphotos.cc podzone.net podzone.org"
    " scrapping.cc selfip.biz selfip.com selfip.info selfip.net selfip.org servebbs.com servebbs.net servebbs.org"
    " serveftp.net serveftp.org servegame.org shacknet.nu thruhere.net webhop.biz webhop.info webhop.net"
    " webhop.org worse-than.tv office-on-the.net"
    # No-IP
    " no-ip.com no-ip.org no-ip.net no-ip.biz no-ip.info no-ip.ca no-ip.co.uk noip.me noip.us ddns.net ddns.me"
    " ddnsking.com 3utilities.com bounceme.net brasilia.me blogsyte.com cable-modem.org ciscofreak.com"
    " collegefan.org couchpotatofries.org damnserver.com ddns.com ditchyourip.com dnsfor.me dnsiskinky.com"
    " dvrcam.info dynns.com eating-organic.net fantasyleague.cc freedynamicdns.net freedynamicdns.org"
    " geekgalaxy.com golffan.us gotdns.ch health-carereform.com homesecuritymac.com homesecuritypc.com hopto.me"
    " hopto.org ilovecollege.info loginto.me mlbfan.org mmafan.biz myactivedirectory.com mydissent.net"
    " myeffect.net myftp.biz myftp.org mymediapc.net mypsx.net mysecuritycamera.com mysecuritycamera.net"
    " mysecuritycamera.org myvnc.com net-freaks.com nflfan.org nhlfan.net onthewifi.com pgafan.net point2this.com"
    " pointto.us privatizehealthinsurance.net quicksytes.com read-books.org redirectme.net securitytactics.com"
    " serveblog.net servebeer.com servecounterstrike.com serveexchange.com serveftp.com servegame.com"
    " servehalflife.com servehttp.com servehumour.com serveirc.com serveminecraft.net servemp3.com servep2p.com"
    " servepics.com servequake.com servesarcasm.com stufftoread.com sytes.net ufcfan.org unusualperson.com"
    " viewdns.net webhop.me workisboring.com zapto.org"
    # ChangeIP
    " 1dumb.com 25u.com 2waky.com 4dq.com 4mydomain.com 4pu.com acmetoy.com almostmy.com americanunfinished.com"
    " authorizeddns.net authorizeddns.org authorizeddns.us b0tnet.com bigmoney.biz changeip.co changeip.net"
    " changeip.org cleansite.biz cleansite.info cleansite.us ddns.info ddns.mobi ddns.ms ddns.name ddns.us"
    " dhcp.biz dns-dns.com dns-report.com dns-stuff.com dns04.com dns05.com dns1.us dns2.us dnset.com"
    " dnsfailover.net dnsrd.com dsmtp.com dubya.biz dubya.info dubya.net dubya.us dumb1.com dynamic-dns.net"
    " dynamicdns.biz dynamicdns.co.uk dynamicdns.me.uk dynamicdns.org.uk dyndns.pro dynssl.com edns.biz epac.to"
    " esmtp.biz ezua.com faqserv.com fartit.com freeddns.com freetcp.com freewww.biz freewww.info ftp1.biz"
    " ftpserver.biz gettrials.com got-game.org gr8domain.biz gr8name.biz https443.net https443.org ikwb.com"
    " instanthq.com iownyour.biz iownyour.org isasecret.com itemdb.com itsaol.com jetos.com jkub.com"
    " jungleheart.com justdied.com lflink.com lflinkup.com lflinkup.net lflinkup.org longmusic.com mefound.com"
    " misecure.com moneyhome.biz mrbasic.com mrbonus.com mrface.com mrslove.com my03.com mydad.info myddns.com"
    " myftp.info myftp.name mylftv.com mymom.info mynetav.com mynetav.net mynetav.org mynumber.org mypicture.info"
    " mypop3.net mypop3.org mysecondarydns.com mywww.biz myz.info ninth.biz ns01.biz ns01.info ns01.us ns02.biz"
    " ns02.info ns1.name ns2.name ns3.name ocry.com onedumb.com onmypc.biz onmypc.info onmypc.net onmypc.org"
    " onmypc.us organiccrap.com otzo.com ourhobby.com pcanywhere.net port25.biz proxydns.com qhigh.com qpoe.com"
    " rebatesrule.net sellclassics.com sendsmtp.com serveuser.com serveusers.com sexidude.com sexxxy.biz sixth.biz"
    " squirly.info ssl443.org toh.info toythieves.com trickip.net trickip.org vizvaz.com wwwhost.biz wwwhost.us"
    " x24hr.com xxuz.com xxxy.biz xxxy.info ygto.com youdontcare.com yourtrap.com zyns.com zzux.com"
    # Dynu, DuckDNS, Securepoint, ClouDNS and others in Europe and America
    " accesscam.org camdvr.org casacam.net ddnsfree.com ddnsgeek.com dynu.com dynu.net freeddns.org giize.com"
    " gleeze.com kozow.com loseyourip.com mywire.org ooguy.com theworkpc.com webredirect.org 1cooldns.com"
    " bumbleshrimp.com duckdns.org dedyn.io ddnss.de ddnss.org dyn.ddnss.de dyndns.ddnss.de dyndns1.de dyn-ip24.de"
    " dynamisches-dns.de dyndns4you.com home-webserver.de my-router.de mysecurecamera.com spdns.de spdns.eu"
    " spdns.org spdyn.de my-gateway.de firewall-gateway.com firewall-gateway.de firewall-gateway.net goip.de"
    " selfhost.eu selfhost.me selfhost.bz dnsd.info dnsup.net dnsupdate.info dtdns.net dtdns.com dynserv.com"
    " dynserv.org dynserv.net dyns.cx dyns.net dynv6.net dy.fi dnshome.de dnsdynamic.org dnsdynamic.com"
    " dnsdynamic.net dnsapi.info dnsget.org dns53.biz changeip.com cloudns.asia cloudns.biz cloudns.cc"
    " cloudns.club cloudns.eu cloudns.in cloudns.info cloudns.nz cloudns.org cloudns.ph cloudns.pro cloudns.pw"
    " cloudns.us entrydns.org everydns.net nerdpol.ovh noho.st nohost.me nsupdate.info now-dns.net now-dns.org"
    " now-dns.top ntdll.top mypi.co linkpc.net publicvm.com zonomi.com yi.org yi.ro x3322.com myfritz.net"
    " mydlink.com myqnapcloud.com mycloudnas.com synology.me diskstation.me quickconnect.to dscloud.me dscloud.biz"
    " myasustor.com asuscomm.com mynetgear.com tplinkdns.com keenetic.pro keenetic.link hopper.pw iobb.net"
    " ipv6.moe is-very-good.org ddns.cam ignorelist.net sn.mynetname.net remotewd.com wd2go.com static.land xpt.li"
    " zapto.net ydns.eu"
    # Asia
    " 3322.org 8866.org 2288.org 6600.org 7766.org 8800.org 9966.org f3322.net f3322.org eicp.net gicp.net"
    " oicp.net vicp.net vicp.cc xicp.net xicp.cn uicp.cn uicp.net iego.net imwork.net ticp.net qicp.vip vicp.io"
    " zicp.vip wicp.vip wicp.net meibu.com meibu.net dnsdyn.net myds.me pubyun.com ngrok.cc codns.com iptime.org"
    " dnip.net ddns.hk ddns.co.kr jpn.ph mydns.jp mydns.tw ddo.jp dip.jp dynamic.jp ddo.us ieserver.net jp.net"
    " clear-net.jp fam.cx moe.hm ddns.vn ddns.ru"
    # Redirectors and tunnels that hand out names as freely
    " co.cc co.nr cz.cc co.vu co.tv tk.co ce.ms cu.cc c0m.li rr.nu vv.cc dns.army dns.navy v6.army v6.navy"
)


def dynamic_suffixes(more: Iterable[str] = ()) -> frozenset[Name]:
    """Return the shipped domains with those of an operator; raises BadName for what is no name."""
    return frozenset(from_text(text) for text in (*_PROVIDERS.split(), *more))


DYNAMIC: Final = dynamic_suffixes()
