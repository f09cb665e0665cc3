"""More sources of price files than `price_sources`: a header and a template per row each, without an adjusted close.

A template names `d` (date), `o h l c` (prices), `v` (volume), `e` (seconds since 1970); in capitals, prices and volume
as German programs write them. `VM` is the volume in millions with a decimal comma, `R` the year of Taiwan's calendar.
"""

from typing import NamedTuple

from price_sources import Bars, comma, epoch


class Source(NamedTuple):
    """How a source writes its files."""

    header: str
    row: str
    newest_first: bool = False
    before: str = ""
    after: str = ""
    encoding: str = "utf-8"

    def __call__(self, bars: Bars) -> bytes:
        """Write bars."""
        lines = []
        for bar in bars.to_dict("records"):
            day, values = bar["date"].date(), {name[0]: bar[name] for name in ("open", "high", "low", "close")}
            volume = float(bar["volume"])
            lines.append(
                self.row.format(
                    d=day, e=epoch(day), v=volume, **values, R=day.year - 1911, VM=comma(volume / 1e6, 4),
                    V=comma(volume, 0), **{name.upper(): comma(value) for name, value in values.items()},
                )
            )  # fmt: skip
        rows = [self.header, *(reversed(lines) if self.newest_first else lines)]
        return (self.before + "\n".join(filter(None, rows)) + "\n" + self.after).encode(self.encoding)


_INVESTING = '"{d:%d.%m.%Y}","{C}","{O}","{H}","{L}","{VM}M","-0,1%"'
_OHLCV = "{o},{h},{l},{c},{v:.0f}"

FURTHER: dict[str, Source] = {
    "Yahoo Japan": Source(
        "日付,始値,高値,安値,終値,出来高,調整後終値*",
        '{d.year}年{d.month}月{d.day}日,"{o:,.2f}","{h:,.2f}","{l:,.2f}","{c:,.2f}","{v:,.0f}","{c:,.2f}"', True),
    "kabuoji3": Source("日付,始値,高値,安値,終値,出来高,終値調整", '"{d}","{o}","{h}","{l}","{c}","{v:.0f}","{c}"',
                       before="1301 東証PRM 極洋\n", encoding="shift_jis"),
    "Bloomberg, BDH": Source("Dates,PX_OPEN,PX_HIGH,PX_LOW,PX_LAST,VOLUME", "{d:%m/%d/%Y}," + _OHLCV),
    "Bloomberg, grid": Source("Date,Open Price,High Price,Low Price,Last Price,Volume,SMAVG (15)",
                              "{d:%d/%m/%Y}," + _OHLCV + ",1.5"),
    "LSEG": Source("Date,TRDPRC_1,HIGH_1,LOW_1,ACVOL_UNS,OPEN_PRC,BID,ASK", "{d},{c},{h},{l},{v},{o},1,1"),
    "LSEG, get_data": Source(",Instrument,Date,Price Open,Price High,Price Low,Price Close,Volume",
                             "0,ACME.O,{d}T00:00:00Z," + _OHLCV),
    "IEX": Source(
        "close,high,low,open,symbol,volume,id,key,date,updated,uOpen,uClose,uHigh,uLow,fOpen,fClose,fHigh,fLow,label",
        '{c},{h},{l},{o},ACME,{v:.0f},HISTORICAL,ACME,{d},{e}000,{o},{c},{h},{l},{o},{c},{h},{l},"Jan 2, 20"'),
    "EODHD, bulk": Source("Code,Ex,Date,Open,High,Low,Close,Adjusted_close,Volume",
                          "OTHER,US,{d},1,1,1,1,1,1\nACME,US,{d},{o},{h},{l},{c},{c},{v:.0f}"),
    "WIKI": Source("ticker,date,open,high,low,close,volume,ex-dividend,split_ratio,adj_close,adj_volume",
                   "ACME,{d}," + _OHLCV + ",0.0,1.0,{c},{v}\nOTHER,{d},1,1,1,1,1,0.0,1.0,1,1"),
    "MarketWatch": Source("Date,Open,High,Low,Close,Volume",
                          '{d:%m/%d/%Y},"${o:,.2f}","${h:,.2f}","${l:,.2f}","${c:,.2f}","{v:,.0f}"', True),
    "BSE": Source("Date,Open Price,High Price,Low Price,Close Price,WAP,No.of Shares,No. of Trades,Spread High-Low",
                  "{d.day}-{d:%B-%Y},{o},{h},{l},{c},99.1234,{v:.0f},345,1,", True),
    "NSE, bhavcopy": Source(
        "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,TOTTRDQTY,TOTTRDVAL,TIMESTAMP,TOTALTRADES,ISIN,",
        "ACME,N1,1,1,1,1,1,1,1,1,{d:%d-%b-%Y},1,INE1,\n"
        "ACME,EQ,{o},{h},{l},{c},{c},{c},{v:.0f},1,{d:%d-%b-%Y},1,INE2,\nOTHER,EQ,1,1,1,1,1,1,1,1,{d:%d-%b-%Y},1,I,"),
    "NSE, UDiFF": Source(
        "TradDt,BizDt,Sgmt,ISIN,TckrSymb,SctySrs,OpnPric,HghPric,LwPric,ClsPric,LastPric,PrvsClsgPric,TtlTradgVol",
        "{d},{d},CM,I1,ACME,EQ,{o},{h},{l},{c},{c},{c},{v:.0f}\n{d},{d},CM,I2,OTHER,EQ,1,1,1,1,1,1,1"),
    "NSE, full bhavcopy": Source(
        "SYMBOL, SERIES, DATE1, PREV_CLOSE, OPEN_PRICE, HIGH_PRICE, LOW_PRICE, LAST_PRICE, CLOSE_PRICE, TTL_TRD_QNTY",
        "ACME, EQ, {d:%d-%b-%Y}, 9, {o}, {h}, {l}, {c}, {c}, {v:.0f}"),
    "Euronext": Source('Date;Open;High;Low;Last;Close;"Number of Shares";Turnover;vwap',
                       "{d:%d/%m/%Y};{o};{h};{l};{c};{c};{v:.0f};123456.78;{c}", True,
                       before='\ufeff"Historical Data"\n"From 2015-01-01 to 2015-06-01"\n"FR0000120271"\n'),
    "Euronext, apostrophes": Source("Date;Open;High;Low;Close;'Number of Shares'",
                                    "'{d:%d/%m/%Y}';{o};{h};{l};{c};{v:.0f}", True),
    "Frankfurt": Source("Datum;Eröffnung;Schluss;Tageshoch;Tagestief;Umsatz (Stück);Umsatz (€)",
                        "{d:%d.%m.%Y};{O};{C};{H};{L};{V};{V}", True),
    "Ariva": Source("Datum;Erster;Hoch;Tief;Schlusskurs;Stuecke;Volumen", "{d};{O};{H};{L};{C};{V};{V}", True),
    "Moscow, history": Source(
        "BOARDID;TRADEDATE;SHORTNAME;SECID;NUMTRADES;OPEN;LOW;HIGH;LEGALCLOSEPRICE;WAPRICE;CLOSE;VOLUME",
        "TQBR;{d};Сбербанк;ACME;345;{o};{l};{h};{c};{c};{c};{v:.0f}", before="history\n\n", encoding="cp1251"),
    "Moscow, candles": Source("open;close;high;low;value;volume;begin;end",
                              "{o};{c};{h};{l};123.4;{v:.0f};{d} 00:00:00;{d} 23:59:59", before="candles\n\n"),
    "Google Sheets": Source("Date,Open,High,Low,Close,Volume", "{d.month}/{d.day}/{d.year} 16:00:00," + _OHLCV),
    "Kaggle, Nifty": Source("Date,Symbol,Series,Prev Close,Open,High,Low,Last,Close,VWAP,Volume,Turnover",
                            "{d},ACME,EQ,{c},{o},{h},{l},{c},{c},{c},{v:.0f},1e14"),
    "CoinMarketCap": Source(
        "timeOpen;timeClose;timeHigh;timeLow;name;open;high;low;close;volume;marketCap;timestamp",
        '"{d}T00:00:00.000Z";"{d}T23:59:59.999Z";"{d}T01:01:00.000Z";"{d}T05:01:00.000Z";"2781";{o};{h};{l};{c};{v};1;'
        '"{d}T23:59:59.999Z"', True),
    "tushare": Source("ts_code,trade_date,open,high,low,close,pre_close,change,pct_chg,vol,amount",
                      "ACME.SZ,{d:%Y%m%d},{o},{h},{l},{c},1,1,1,{v},1", True),
    "NetEase": Source("日期,股票代码,名称,收盘价,最高价,最低价,开盘价,前收盘,换手率,成交量",
                      "{d},'600000,浦发银行,{c},{h},{l},{o},1,1,{v:.0f}", True, encoding="gb18030"),
    "TWSE": Source('"日期","成交股數","成交金額","開盤價","最高價","最低價","收盤價","漲跌價差","成交筆數",',
                   '"{R}/{d:%m/%d}","{v:,.0f}","1,234","{o:,.2f}","{h:,.2f}","{l:,.2f}","{c:,.2f}","+1.00","12,345",',
                   before='"104年01月 2330 台積電 各日成交資訊"\n', after='"說明:"\n', encoding="cp950"),
    "KRX": Source("일자,종가,대비,등락률,시가,고가,저가,거래량,거래대금",
                  '"{d:%Y/%m/%d}","{c}","1","0.1","{o}","{h}","{l}","{v:.0f}","1"', True, encoding="cp949"),
    "Investing.com, Korean": Source(
        '"날짜","종가","시가","고가","저가","거래량","변동 %"',
        '"{d.year}- {d:%m- %d}","{c:,.2f}","{o:,.2f}","{h:,.2f}","{l:,.2f}","{v}","-0.1%"', True),
    "Investing.com, Chinese": Source(
        '"日期","收盘","开盘","高","低","交易量","涨跌幅"',
        '"{d.year}年{d.month}月{d.day}日","{c:,.2f}","{o:,.2f}","{h:,.2f}","{l:,.2f}","{v}","-0.1%"', True),
    "Investing.com, Turkish": Source('"Tarih","Şimdi","Açılış","Yüksek","Düşük","Hac.","Fark %"', _INVESTING, True),
    "Investing.com, Polish": Source('"Data","Ostatnio","Otwarcie","Max.","Min.","Wol.","Zmiana%"', _INVESTING, True),
    "Investing.com, Dutch": Source('"Datum","Laatste","Open","Hoog","Laag","Vol.","Verschil %"', _INVESTING, True),
    "Investing.com, Swedish": Source('"Datum","Senaste","Öppen","Högst","Lägst","Vol.","+/- %"', _INVESTING, True),
    "Nasdaq Nordic": Source(
        "Date;Bid;Ask;Opening price;High price;Low price;Closing price;Average price;Total volume;Turnover;Trades;",
        "{d};{C};{C};{O};{H};{L};{C};{C};{v:.0f};123,5;77;", True, before="sep=;\n"),
    "Kibot": Source("", "{d:%m/%d/%Y}," + _OHLCV),
    "Sydney, without header": Source("", "ACME,{d:%Y%m%d}," + _OHLCV),
    "Barchart": Source("Time,Open,High,Low,Last,Change,%Chg,Volume", '{d:%m/%d/%Y},{o},{h},{l},{c},1,"+0.1%",{v:.0f}',
                       True, after='"Downloaded from Barchart.com as of 01-05-2024 10:00am CST"\n'),
    "Dukascopy": Source("Local time,Open,High,Low,Close,Volume", "{d:%d.%m.%Y} 00:00:00.000 GMT+0100," + _OHLCV),
    "Brazil": Source("Data;Abertura;Máxima;Mínima;Fechamento;Volume",
                     "{d:%d/%m/%Y};R$ {O};R$ {H};R$ {L};R$ {C};{v:.0f}"),
    "London, in pence": Source("Date,Open,High,Low,Close,Volume", "{d:%d/%m/%y},{o}p,{h}p,{l}p,{c}p,{v:.0f}"),
    "Alpaca": Source("symbol,timestamp,open,high,low,close,volume,trade_count,vwap",
                     "ACME,{d} 05:00:00+00:00," + _OHLCV + ",1,1"),
    "Databento": Source("ts_event,rtype,instrument_id,open,high,low,close,volume,symbol",
                        "{d}T00:00:00.000000000Z,35,3," + _OHLCV + ",ACME"),
    "Finnhub": Source("c,h,l,o,t,v", "{c},{h},{l},{o},{e},{v:.0f}"),
    "aligned columns": Source("      Date    Open    High     Low   Close   Volume",
                              "{d} {o:>8} {h:>8} {l:>8} {c:>8} {v:>12.0f}"),
    "times with AM and PM": Source("Date,Open,High,Low,Close,Volume",
                                   "{d.month}/{d.day}/{d.year} 4:00:00 PM," + _OHLCV),
    "JavaScript": Source("Date,Open,High,Low,Close,Volume",
                         "{d:%a %b %d %Y} 00:00:00 GMT-0500 (Eastern Standard Time)," + _OHLCV),
    "mail dates": Source("Date,Open,High,Low,Close,Volume", '"{d:%a, %d %b %Y} 00:00:00 GMT",' + _OHLCV),
    "Excel, cells as formulas": Source("Date,Open,High,Low,Close,Volume", '="{d}",' + _OHLCV),
    "SAS": Source("Date,Open,High,Low,Close,Volume", "{d:%d%b%Y}," + _OHLCV),
    "Markdown": Source("| Date | Open | High | Low | Close | Volume |\n|---|---|---|---|---|---|",
                       "| {d} | {o} | {h} | {l} | {c} | {v:.0f} |"),
    "dividends between the rows": Source("Date\tOpen\tHigh\tLow\tClose\tVolume",
                                         "{d:%b %d, %Y}\t{o}\t{h}\t{l}\t{c}\t{v:,.0f}\n{d:%b %d, %Y}\t0.24 Dividend"),
}  # fmt: skip

CLOSES: dict[str, Source] = {
    "closes": Source("Date,Close", "{d},{c}"),
    "FRED": Source("observation_date,DEXUSEU", "{d},{c}", after="2030-01-01,.\n"),
    "Google Finance": Source("Date,Close", "{d.month}/{d.day}/{d.year} 16:00:00,{c}"),
    "CoinGecko": Source("snapped_at,price,market_cap,total_volume", "{d} 00:00:00 UTC,{c},12345.0,0"),
    "S&P": Source("Effective date ,S&P 500", "{d:%m/%d/%Y},{c}", before="S&P Dow Jones Indices\n\n"),
    "fund": Source("Datum;NAV", "{d:%d.%m.%Y};{C}"),
    "Bloomberg": Source("Date,PX_LAST", "{d:%m/%d/%Y},{c}", before="Security,ACME US Equity\nStart Date,1/2/2015\n\n"),
    "pandas": Source(",ACME", "{d},{c}"),
    "side by side": Source("Date,ACME,OTHER", "{d},{c},1.5"),
    "ECB": Source("Date, ACME, JPY, BGN, ", "{d}, {c}, 1.5, N/A, ", True),
    "below each other": Source("Date,Ticker,Close", "{d},ACME,{c}\n{d},OTHER,1.5"),
}
"""Sources of closes alone."""
